// CUDA's half precision, with the compiler's _Float16.
#pragma once

#include <cstdint>
#include <cstring>

struct alignas(2) __half {
  uint16_t bits;
};

inline float __half2float(__half value) {
  _Float16 number;
  std::memcpy(&number, &value.bits, sizeof(number));
  return static_cast<float>(number);
}

inline __half __float2half_rn(float value) {
  const auto number = static_cast<_Float16>(value);
  __half half;
  std::memcpy(&half.bits, &number, sizeof(number));
  return half;
}
