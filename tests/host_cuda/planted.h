// The bug of planted_bugs.py that a run has: the number in the environment variable PLANTED_BUG.
#pragma once

#include <cstdlib>

inline const int planted_bug = [] {
  const char* const number = std::getenv("PLANTED_BUG");
  return number ? std::atoi(number) : -1;
}();
