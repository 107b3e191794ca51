// The table of this instruction set's operations.
#include "ops.h"
#include "packed_block.h"

namespace farthing {
namespace FARTHING_ISA {

#define FARTHING_STRING_(x) #x
#define FARTHING_STRING(x) FARTHING_STRING_(x)

extern const Kernels kTable;
const Kernels kTable = {
    FARTHING_STRING(FARTHING_ISA),
    kPanel,
    embed,
    rms_norm,
    rotary,
    rope,
    store_kv,
    rope_tokens,
    store_tokens,
    attention,
    attends_to_codes,
    attention_scratch,
    swiglu,
    geglu,
    sigmoid_scale,
    moe,
    add,
    linear,
#if defined(FARTHING_ISA_avx512)
    to_words,
#else
    nullptr,
#endif
    gated,
    sample,
    probe_read,
    probe_f32,
    probe_int8,
    12 * kWide * 2,         // 12 sums of kWide multiply-adds
    8 * 8 * 4 * kWide * 2,  // 8 sums of 8 products of 4 kWide codes
};

}  // namespace FARTHING_ISA
}  // namespace farthing
