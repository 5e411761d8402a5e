#include "backend/cuda/cudnn_plan.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <utility>

#include "backend/cuda/cuda_status.hpp"

namespace revode::cuda {
namespace {

/// Larger workspaces are not worth their memory. Engines for tensor cores bring images into a
/// layout of their own.
std::int64_t most_workspace_bytes(const PlanShape& shape) {
  constexpr std::int64_t least = std::int64_t{256} << 20;
  const std::int64_t num_pixels = std::int64_t{1} * shape.batch * shape.height * shape.width;
  const auto bytes_of_images = static_cast<std::int64_t>(sizeof(float)) * num_pixels *
                               (shape.in_channels + shape.out_channels);
  return std::max(least, 2 * bytes_of_images);
}

// By which a plan is told where its arrays are.
enum Tensor : std::int64_t { tensor_x = 1, tensor_kernel, tensor_y, tensor_product };

/// What cuDNN calls a type.
template <typename T>
constexpr cudnnBackendAttributeType_t attribute_type =
    [] { static_assert(sizeof(T) == 0, "no attribute has this type"); }();
template <>
constexpr auto attribute_type<std::int64_t> = CUDNN_TYPE_INT64;
template <>
constexpr auto attribute_type<float> = CUDNN_TYPE_FLOAT;
template <>
constexpr auto attribute_type<char> = CUDNN_TYPE_CHAR;
template <>
constexpr auto attribute_type<void*> = CUDNN_TYPE_VOID_PTR;
template <>
constexpr auto attribute_type<bool> = CUDNN_TYPE_BOOLEAN;
template <>
constexpr auto attribute_type<cudnnPointwiseMode_t> = CUDNN_TYPE_POINTWISE_MODE;
template <>
constexpr auto attribute_type<cudnnHandle_t> = CUDNN_TYPE_HANDLE;
template <>
constexpr auto attribute_type<cudnnDataType_t> = CUDNN_TYPE_DATA_TYPE;
template <>
constexpr auto attribute_type<cudnnConvolutionMode_t> = CUDNN_TYPE_CONVOLUTION_MODE;
template <>
constexpr auto attribute_type<cudnnBackendHeurMode_t> = CUDNN_TYPE_HEUR_MODE;
template <>
constexpr auto attribute_type<cudnnBackendNumericalNote_t> = CUDNN_TYPE_NUMERICAL_NOTE;

Descriptor make(cudnnBackendDescriptorType_t type) {
  cudnnBackendDescriptor_t made = nullptr;
  check(cudnnBackendCreateDescriptor(type, &made), "cudnnBackendCreateDescriptor");
  return Descriptor(made);
}

template <typename T>
void set(const Descriptor& of, cudnnBackendAttributeName_t name, std::span<const T> values) {
  check(cudnnBackendSetAttribute(of.get(), name, attribute_type<T>,
                                 static_cast<std::int64_t>(values.size()), values.data()),
        "cudnnBackendSetAttribute");
}

template <typename T>
void set(const Descriptor& of, cudnnBackendAttributeName_t name, const T& value) {
  set(of, name, std::span<const T>(&value, 1));
}

void set(const Descriptor& of, cudnnBackendAttributeName_t name, const Descriptor& value) {
  const cudnnBackendDescriptor_t descriptor = value.get();
  check(cudnnBackendSetAttribute(of.get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &descriptor),
        "cudnnBackendSetAttribute");
}

void finalize(const Descriptor& made) {
  check(cudnnBackendFinalize(made.get()), "cudnnBackendFinalize");
}

/// As many as there are, of `most` at most.
template <typename T>
std::vector<T> get(const Descriptor& of, cudnnBackendAttributeName_t name, std::size_t most) {
  std::vector<T> values(most);
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(of.get(), name, attribute_type<T>, static_cast<std::int64_t>(most),
                                 &count, values.data()),
        "cudnnBackendGetAttribute");
  values.resize(static_cast<std::size_t>(count));
  return values;
}

/// The same of descriptors, which are made to be filled.
std::vector<Descriptor> get(const Descriptor& of, cudnnBackendAttributeName_t name,
                            cudnnBackendDescriptorType_t type, std::int64_t most) {
  std::vector<Descriptor> made;
  std::vector<cudnnBackendDescriptor_t> to;
  for (std::int64_t i = 0; i < most; ++i) to.push_back(made.emplace_back(make(type)).get());
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(of.get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, most, &count,
                                 to.data()),
        "cudnnBackendGetAttribute");
  made.resize(static_cast<std::size_t>(count));
  return made;
}

/// In NHWC, of operands in a precision: fp32 for floats.
Descriptor make_tensor(Tensor which, Precision precision, std::array<std::int64_t, 4> dimensions) {
  Descriptor tensor = make(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  const auto [count, channels, height, width] = dimensions;
  const std::array strides{height * width * channels, std::int64_t{1}, width * channels, channels};
  set(tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID, std::int64_t{which});
  set(tensor, CUDNN_ATTR_TENSOR_DATA_TYPE,
      precision == Precision::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT);
  set(tensor, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16});
  set(tensor, CUDNN_ATTR_TENSOR_DIMENSIONS, std::span<const std::int64_t>(dimensions));
  set(tensor, CUDNN_ATTR_TENSOR_STRIDES, std::span<const std::int64_t>(strides));
  if (which == tensor_product) set(tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL, true);
  finalize(tensor);
  return tensor;
}

/// to <- from
Descriptor make_copy(const Descriptor& from, const Descriptor& to) {
  const Descriptor identity = make(CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  set(identity, CUDNN_ATTR_POINTWISE_MODE, CUDNN_POINTWISE_IDENTITY);
  set(identity, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
  finalize(identity);
  Descriptor operation = make(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, identity);
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from);
  set(operation, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to);
  finalize(operation);
  return operation;
}

Descriptor make_convolution() {
  Descriptor convolution = make(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  const std::array<std::int64_t, 2> ones{1, 1};
  set(convolution, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2});
  set(convolution, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  set(convolution, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_CROSS_CORRELATION);
  for (const auto name : {CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS,
                          CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_ATTR_CONVOLUTION_DILATIONS})
    set(convolution, name, std::span<const std::int64_t>(ones));
  finalize(convolution);
  return convolution;
}

/// How cuDNN calls the parts of an operation.
struct OperationNames {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t convolution, x, kernel, y, alpha, beta;
};
constexpr OperationNames forward_names{CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
constexpr OperationNames gradient_names{
    CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
    CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};

// From operands in bf16 cuDNN forms floats in one way only: as a product that no array holds, which
// is then copied, all in one kernel.
Descriptor make_graph(const PlanShape& shape, PlanDevice device) {
  const OperationNames& names = shape.is_gradient ? gradient_names : forward_names;
  const std::array<std::int64_t, 4> sizes_of_x{shape.batch, shape.in_channels, shape.height,
                                               shape.width};
  const std::array<std::int64_t, 4> sizes_of_kernel{shape.out_channels, shape.in_channels, 3, 3};
  const std::array<std::int64_t, 4> sizes_of_y{shape.batch, shape.out_channels, shape.height,
                                               shape.width};
  const auto& sizes_of_result = shape.is_gradient ? sizes_of_kernel : sizes_of_y;
  const Tensor tensor_result = shape.is_gradient ? tensor_kernel : tensor_y;
  const Descriptor result = make_tensor(tensor_result, Precision::fp32, sizes_of_result);
  const bool is_product = shape.precision == Precision::bf16;
  const Descriptor product = make_tensor(tensor_product, Precision::fp32, sizes_of_result);
  const Descriptor& written = is_product ? product : result;

  Descriptor operations[2];
  Descriptor& convolution = operations[0] = make(names.type);
  set(convolution, names.convolution, make_convolution());
  set(convolution, names.x, make_tensor(tensor_x, shape.precision, sizes_of_x));
  if (shape.is_gradient) {
    set(convolution, names.kernel, written);
    set(convolution, names.y, make_tensor(tensor_y, shape.precision, sizes_of_y));
  } else {
    set(convolution, names.kernel, make_tensor(tensor_kernel, shape.precision, sizes_of_kernel));
    set(convolution, names.y, written);
  }
  set(convolution, names.alpha, 1.0f);
  set(convolution, names.beta, 0.0f);
  finalize(convolution);
  if (is_product) operations[1] = make_copy(product, result);

  Descriptor graph = make(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  if (device.handle != nullptr) set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, device.handle);
  const cudnnBackendDescriptor_t in_order[] = {operations[0].get(), operations[1].get()};
  check(cudnnBackendSetAttribute(graph.get(), CUDNN_ATTR_OPERATIONGRAPH_OPS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, is_product ? 2 : 1, in_order),
        "cudnnBackendSetAttribute");
  finalize(graph);
  return graph;
}

std::vector<Descriptor> engine_configs(const Descriptor& graph, PlanDevice device,
                                       cudnnBackendHeurMode_t mode) {
  const Descriptor heuristics = make(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  set(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, mode);
  if (device.handle == nullptr)
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device.properties);
  finalize(heuristics);
  std::int64_t count = 0;
  check(cudnnBackendGetAttribute(heuristics.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                 CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count, nullptr),
        "cudnnBackendGetAttribute");
  return get(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, count);
}

std::string name_of(Precision precision) {
  return precision == Precision::fp32   ? "fp32"
         : precision == Precision::tf32 ? "tf32"
                                        : "bf16, which it compiles with NVRTC";
}

bool is_allowed(cudnnBackendNumericalNote_t note, Precision precision) {
  if (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE) return precision != Precision::fp32;
  return note == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP;
}

}  // namespace

Descriptor make_device_properties(const std::string& json) {
  Descriptor properties = make(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  set(properties, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, std::span<const char>(json));
  finalize(properties);
  return properties;
}

PlanShape::PlanShape(const Convolution& of)
    : batch(of.batch),
      height(of.height),
      width(of.width),
      in_channels(of.in_channels),
      out_channels(of.out_channels),
      is_gradient(false),
      precision(of.precision) {}

PlanShape::PlanShape(const ConvolutionGradient& of)
    : batch(of.batch),
      height(of.height),
      width(of.width),
      in_channels(of.in_channels),
      out_channels(of.out_channels),
      is_gradient(true),
      precision(of.precision) {}

std::vector<EngineChoice> engine_choices(const PlanShape& shape, PlanDevice device) {
  const Descriptor graph = make_graph(shape, device);
  std::vector<EngineChoice> choices;
  for (const auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (Descriptor& config : engine_configs(graph, device, mode)) {
      const std::vector<Descriptor> engines =
          get(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1);
      const Descriptor& engine = engines.at(0);
      auto notes = get<cudnnBackendNumericalNote_t>(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE,
                                                    CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
      if (!std::ranges::all_of(notes, [&](auto note) { return is_allowed(note, shape.precision); }))
        continue;
      const auto index = get<std::int64_t>(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, 1);
      choices.push_back({std::move(config), static_cast<int>(index.at(0)), std::move(notes)});
    }
  return choices;
}

// What the heuristics name may yet not be there for this device or driver.
CudnnPlan::CudnnPlan(const PlanShape& shape, PlanDevice device) {
  std::string why_not;
  for (EngineChoice& choice : engine_choices(shape, device)) {
    Descriptor plan = make(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, choice.config);
    if (device.handle != nullptr)
      set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, device.handle);
    else
      set(plan, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device.properties);
    try {
      finalize(plan);
    } catch (const std::runtime_error& error) {
      if (why_not.empty()) why_not = std::string("; ") + error.what();
      continue;
    }
    const std::int64_t workspace =
        get<std::int64_t>(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, 1).at(0);
    if (workspace > most_workspace_bytes(shape)) continue;
    choice_ = std::move(choice);
    plan_ = std::move(plan);
    workspace_bytes_ = static_cast<std::size_t>(workspace);
    return;
  }
  throw std::runtime_error(
      "cuDNN has no way to compute " +
      std::string(shape.is_gradient ? "the gradient of a convolution" : "a convolution") + " in " +
      name_of(shape.precision) + " with the same bits every time: " + std::to_string(shape.batch) +
      " images, " + std::to_string(shape.in_channels) + " to " +
      std::to_string(shape.out_channels) + " channels of " + std::to_string(shape.height) + " x " +
      std::to_string(shape.width) + why_not);
}

void CudnnPlan::run(cudnnHandle_t handle, const void* x, const void* kernel, const void* y,
                    void* workspace) const {
  const std::array<std::int64_t, 3> tensors{tensor_x, tensor_kernel, tensor_y};
  const std::array<void*, 3> arrays{const_cast<void*>(x), const_cast<void*>(kernel),
                                    const_cast<void*>(y)};
  const Descriptor pack = make(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(tensors));
  set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, std::span<void* const>(arrays));
  set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace);
  finalize(pack);
  check(cudnnBackendExecute(handle, plan_.get(), pack.get()), "cudnnBackendExecute");
}

}  // namespace revode::cuda
