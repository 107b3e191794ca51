// The table of this instruction set's operations.
#include "ops.h"

namespace farthing {
namespace FARTHING_ISA {

#define FARTHING_STRING_(x) #x
#define FARTHING_STRING(x) FARTHING_STRING_(x)

extern const Kernels kTable;
const Kernels kTable = {
    FARTHING_STRING(FARTHING_ISA),
    embed,
    rms_norm,
    rope,
    store_kv,
    attention,
    attention_scratch,
    swiglu,
    add,
    linear,
    sample,
    probe_read,
    probe_f32,
    probe_int8,
    12 * 8 * 2,      // 12 sums of 8 multiply-adds
    8 * 8 * 32 * 2,  // 8 sums of 8 products of 32 codes
};

}  // namespace FARTHING_ISA
}  // namespace farthing
