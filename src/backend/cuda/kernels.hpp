// Every kernel that there is. A new one is a struct in a file of kernels/ and one line here.
#pragma once

#include <variant>

#include "revode/backend/precision.hpp"

#include "backend/cuda/kernels/advance_images.hpp"
#include "backend/cuda/kernels/arrays.hpp"
#include "backend/cuda/kernels/coupling.hpp"
#include "backend/cuda/kernels/digests.hpp"
#include "backend/cuda/kernels/ends.hpp"
#include "backend/cuda/kernels/images.hpp"
#include "backend/cuda/kernels/loss.hpp"
#include "backend/cuda/kernels/norm.hpp"
#include "backend/cuda/kernels/opening.hpp"
#include "backend/cuda/kernels/retreat_images.hpp"
#include "backend/cuda/kernels/tensor_blocks.hpp"
#include "backend/cuda/kernels/tensor_gradient.hpp"

namespace revode::cuda {

// clang-format off
using Kernel = std::variant<
    CutImages, ChannelsLast, ChannelsFirst,
    BiasRelu, AdvanceLine, RetreatLine, AdjointLine, Mask, RoundOperand, AddScaled,
    TakeStateNotes, TakeOverflow,
    PackForBlocks, PackForTensorCores<Precision::tf32>, PackForTensorCores<Precision::bf16>,
    AdvanceImages<FusedProducts<4>>, AdvanceImages<FusedProducts<8>>,
    RetreatImages<FusedProducts<4>>, RetreatImages<FusedProducts<8>>,
    AdvanceImages<TensorProducts<Precision::tf32>>, RetreatImages<TensorProducts<Precision::tf32>>,
    AdvanceImages<TensorProducts<Precision::bf16>>, RetreatImages<TensorProducts<Precision::bf16>>,
    PackKernels, AddKernelGradient, AddBiasGradient,
    SumStatistics, FinishStatistics, NormaliseFeatures, SumNormBackward, FinishNormBackward, NormBackward,
    OpeningConvolution, SumOpeningGradient, AddOpeningGradient,
    PoolSlots, UnpoolSlots,
    PoolFeatures, FillRows, AddContributions, AddColumnSums,
    SoftmaxOfSamples, SumLosses, SoftmaxGradient, ReadRunningAverages, UpdateRunningAverages,
    AddDigests, CompareParts, AddComparisons, FindNonFinite, NoteFound, FinishSums, RegularizeRows, SgdStep>;
// clang-format on

}  // namespace revode::cuda
