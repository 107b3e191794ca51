// Picks what the CPU can run, when the program runs. A further instruction set is one name here and in CMakeLists.txt.
#include "kernels.h"

namespace farthing {

namespace portable {
extern const Kernels kTable;
}
#if defined(FARTHING_HAVE_AVX2)
namespace avx2 {
extern const Kernels kTable;
}
#endif

const Kernels* const* available_kernels(int* num) {
  static const Kernels* tables[2];
  static const int count = [] {
    int n = 0;
#if defined(FARTHING_HAVE_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      tables[n++] = &avx2::kTable;
#endif
    tables[n++] = &portable::kTable;
    return n;
  }();
  *num = count;
  return tables;
}

}  // namespace farthing
