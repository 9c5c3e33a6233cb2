// An op's arguments as one struct of eight-byte fields, which Python fills by their names.
#pragma once

#include <type_traits>

namespace reg4rec {

struct Field {
  const char* name;
  bool is_float;
};

}  // namespace reg4rec

// Defines `struct Name` and the list `kNameFields` of what it holds, of a macro that lists type and name of each field.
#define CALL_MEMBER(type, name) \
  type name;                    \
  static_assert(sizeof(type) == 8, "fields take eight bytes each");
#define CALL_FIELD(type, name) {#name, std::is_floating_point<type>::value},
#define DEFINE_CALL(Name, FIELDS) \
  struct Name {                   \
    FIELDS(CALL_MEMBER)           \
  };                              \
  constexpr Field k##Name##Fields[] = {FIELDS(CALL_FIELD)};
