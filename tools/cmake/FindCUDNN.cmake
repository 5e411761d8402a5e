# FindCUDNN: cuDNN 9 as CUDNN::cudnn, and its version as CUDNN_VERSION. CUDNN_ROOT, or the folder of the CUDA toolkit, is where
# it is looked for first. Of its libraries only the small one is linked, which loads the others.

find_path(CUDNN_INCLUDE_DIR cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}
  PATH_SUFFIXES lib64 lib)
if(CUDNN_INCLUDE_DIR AND EXISTS ${CUDNN_INCLUDE_DIR}/cudnn_version.h)
  set(version_header ${CUDNN_INCLUDE_DIR}/cudnn_version.h)
  if(EXISTS ${CUDNN_INCLUDE_DIR}/cudnn_version_v9.h)
    set(version_header ${CUDNN_INCLUDE_DIR}/cudnn_version_v9.h)
  endif()
  set(numbers "")
  foreach(part MAJOR MINOR PATCHLEVEL)
    file(STRINGS ${version_header} line REGEX "^#define CUDNN_${part} +[0-9]+")
    string(REGEX MATCH "[0-9]+$" number "${line}")
    list(APPEND numbers ${number})
  endforeach()
  list(JOIN numbers . CUDNN_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CUDNN REQUIRED_VARS CUDNN_LIBRARY CUDNN_INCLUDE_DIR VERSION_VAR CUDNN_VERSION)
mark_as_advanced(CUDNN_INCLUDE_DIR CUDNN_LIBRARY)

if(CUDNN_FOUND AND NOT TARGET CUDNN::cudnn)
  add_library(CUDNN::cudnn UNKNOWN IMPORTED)
  set_target_properties(CUDNN::cudnn PROPERTIES
    IMPORTED_LOCATION ${CUDNN_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${CUDNN_INCLUDE_DIR})
endif()
