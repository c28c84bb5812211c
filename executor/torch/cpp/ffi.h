// What tch does not wrap of libtorch, as C functions over tch's tensors (pointers to at::Tensor).
//
// A function that gives `false` left its problem in `ffi_problem`.
#pragma once

#include <ATen/Tensor.h>

#include <cstdint>
#include <exception>
#include <string>

namespace meshwright {

// The last problem of this thread.
extern thread_local std::string problem;

// Runs `body`, and keeps what it throws.
template <typename Body>
bool attempt(Body body) {
  try {
    body();
    return true;
  } catch (const std::exception& e) {
    problem = e.what();
  } catch (...) {
    problem = "an unknown exception of libtorch";
  }
  // The first line says what is wrong, the rest where in libtorch.
  problem = problem.substr(0, problem.find('\n'));
  return false;
}

}  // namespace meshwright
