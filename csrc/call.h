// An op's arguments as one struct, which Python fills by field name. For the host compiler, nvcc and NVRTC.
#pragma once

#ifdef __CUDACC_RTC__  // has no headers
typedef int int32_t;
typedef long long int64_t;
#else
#include <cstddef>
#include <cstdint>
#endif

#ifdef __CUDACC__
#define REG4REC_ANYWHERE __host__ __device__
#else  // inlined, so that no unit runs what another one compiled for its instruction set
#define REG4REC_ANYWHERE __attribute__((always_inline)) inline
#endif

namespace reg4rec {

// The strides of a tensor's first axes, in elements.
template <size_t N>
struct Strides {
  int64_t strides[N];

  template <typename... At>
  REG4REC_ANYWHERE int64_t offset(At... at) const {
    static_assert(sizeof...(At) <= N, "more indices than axes");
    int64_t sum = 0;
    int axis = 0;
    ((sum += at * strides[axis++]), ...);
    return sum;
  }
};

template <typename T>
struct Address {
  T* data;
};

// A tensor from Python; `data` is null if there is none.
template <typename T, size_t N>
struct View : Address<T>, Strides<N> {
  template <typename... At>
  REG4REC_ANYWHERE T& operator()(At... at) const {
    return this->data[this->offset(at...)];
  }
};

// The address of numbers whose size in bytes is known at run time.
struct Raw : Address<const void> {
  int64_t bytes;

  REG4REC_ANYWHERE bool is_bf16() const { return bytes == 2; }  // for floats; else they are float32
};

template <size_t N>
struct RawView : Raw, Strides<N> {};

// The names that fields use; Python reads the number of strides from them (kernels/call.py).
template <typename T>
using View2 = View<T, 2>;
template <typename T>
using View3 = View<T, 3>;
template <typename T>
using View4 = View<T, 4>;
template <typename T>
using View5 = View<T, 5>;
using RawView2 = RawView<2>;
using RawView3 = RawView<3>;
using RawView4 = RawView<4>;

struct Field {
  const char *name, *type;
};

}  // namespace reg4rec

// Defines `struct Name` and the list `kNameFields` of its fields, from a macro that lists the type and name of each
// field: a number, a pointer, or one of the views above.
#define CALL_MEMBER(type, name) \
  type name;                    \
  static_assert(sizeof(type) % 8 == 0, "a field takes a multiple of eight bytes");
#define CALL_FIELD(type, name) {#name, #type},
#define DEFINE_CALL(Name, FIELDS) \
  struct Name {                   \
    FIELDS(CALL_MEMBER)           \
  };                              \
  inline constexpr Field k##Name##Fields[] = {FIELDS(CALL_FIELD)};
