# SPDX-FileCopyrightText: The yolox_trt authors
# SPDX-License-Identifier: Apache-2.0
#
# Lets a plain ament_cmake package build against the ROS 2 wheels of PyPI. Where ROS_DISTRO is set,
# a ROS distribution is sourced, and CMake's search path is left as that made it.

# Puts the prefix that the wheels unpack into (the virtual environment) on CMake's search path.
macro(ros_wheels_find_prefix)
  if(NOT DEFINED ENV{ROS_DISTRO})
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    execute_process(
      COMMAND "${Python3_EXECUTABLE}" -c
        "import ament_package, pathlib; print(pathlib.Path(ament_package.__file__).resolve().parents[4])"
      OUTPUT_VARIABLE ros_wheels_prefix
      OUTPUT_STRIP_TRAILING_WHITESPACE
      COMMAND_ERROR_IS_FATAL ANY)
    set(ENV{AMENT_PREFIX_PATH} "${ros_wheels_prefix}")
    list(PREPEND CMAKE_PREFIX_PATH "${ros_wheels_prefix}")
  endif()
endmacro()

# Drops include folders that do not exist from every imported target of this directory: the wheels
# carry paths of the machine that built them, and CMake refuses a target with such a path.
function(ros_wheels_mend_imported_targets)
  get_directory_property(targets IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders "${target}" INTERFACE_INCLUDE_DIRECTORIES)
    if(NOT folders)
      continue()
    endif()
    set(kept "")
    foreach(folder IN LISTS folders)
      if(folder MATCHES "^\\$<" OR EXISTS "${folder}")
        list(APPEND kept "${folder}")
      endif()
    endforeach()
    set_target_properties("${target}" PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
  endforeach()
endfunction()

# rosidl_generate_interfaces, which leaves out C++ messages when it builds against the wheels: rclpy
# needs none. Fast DDS, the one middleware of the wheels, asks for C's introspection to describe the
# types to other nodes. The files of a library are compiled as one, because most of their time goes to
# the headers that they share.
macro(ros_wheels_generate_interfaces)
  if(DEFINED ENV{ROS_DISTRO})
    rosidl_generate_interfaces(${PROJECT_NAME} ${ARGN})
  else()
    ros_wheels_mend_imported_targets()
    list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX "^rosidl_[a-z_]*_cpp:")
    rosidl_generate_interfaces(${PROJECT_NAME} ${ARGN})
    foreach(library IN ITEMS
      typesupport_fastrtps_c typesupport_introspection_c typesupport_c generator_py)
      set_target_properties(${PROJECT_NAME}__rosidl_${library} PROPERTIES
        UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
    endforeach()
  endif()
endmacro()
