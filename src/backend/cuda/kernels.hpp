// Every kernel that there is. A new one is a struct in a file of kernels/ and one line here.
#pragma once

#include <variant>

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

namespace revode::cuda {

// clang-format off
using Kernel = std::variant<
    CutImages, ChannelsLast, ChannelsFirst,
    BiasRelu, AdvanceLine, RetreatLine, AdjointLine, Mask, RoundOperand, AddScaled,
    TakeStateNotes, TakeOverflow,
    PackForBlocks, AdvanceImages<4>, AdvanceImages<8>, RetreatImages<4>, RetreatImages<8>,
    PackKernels, AddKernelGradient, AddBiasGradient,
    SumStatistics, FinishStatistics, NormaliseFeatures, SumNormBackward, FinishNormBackward, NormBackward,
    OpeningConvolution, SumOpeningGradient, AddOpeningGradient,
    PoolSlots, UnpoolSlots,
    PoolFeatures, FillRows, AddContributions, AddColumnSums,
    SoftmaxOfSamples, SumLosses, SoftmaxGradient, ReadRunningAverages, UpdateRunningAverages,
    AddDigests, CompareParts, AddComparisons, FindNonFinite, NoteFound, FinishSums, RegularizeRows, SgdStep>;
// clang-format on

}  // namespace revode::cuda
