// Picks what the CPU can run, when the program runs. A further instruction set is one name here and in CMakeLists.txt.
#include "kernels.h"

namespace farthing {

namespace portable {
extern const Kernels kTable;
}
#if defined(FARTHING_HAVE_X86)
namespace avx2 {
extern const Kernels kTable;
}
namespace avx512 {
extern const Kernels kTable;
}
#endif

const Kernels* const* available_kernels(int* num) {
  static const Kernels* tables[3];
  static const int count = [] {
    int n = 0;
#if defined(FARTHING_HAVE_X86)
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                          __builtin_cpu_supports("bmi2");
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni"))
      tables[n++] = &avx512::kTable;
    if (has_avx2) tables[n++] = &avx2::kTable;
#endif
    tables[n++] = &portable::kTable;
    return n;
  }();
  *num = count;
  return tables;
}

}  // namespace farthing
