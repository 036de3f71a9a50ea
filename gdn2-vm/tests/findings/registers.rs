//! Registers of which not every byte was set.

use super::{kernel, rules};
use gdn2_vm::Rule;

fn stored(body: &str) -> Vec<Rule> {
    rules(&kernel("", &format!("mov.b16 %h1, 7; mov.b32 %r30, 5;\n{body} ret;")), 32)
}

#[test]
fn the_set_half_of_a_packed_word_may_be_taken_out() {
    for take in [
        "mov.b32 {%h3, _}, %r2; st.global.b16 [%rd1], %h3;",
        "cvt.u16.u32 %h3, %r2; st.global.b16 [%rd1], %h3;",
        "st.global.b16 [%rd1], %r2;",
        "and.b32 %r3, %r2, 0xffff; st.global.b32 [%rd1], %r3;",
        "shl.b32 %r3, %r2, 16; st.global.b32 [%rd1], %r3;",
        "prmt.b32 %r3, %r2, 0, 0x4410; st.global.b32 [%rd1], %r3;",
        "bfe.u32 %r3, %r2, 0, 16; st.global.b32 [%rd1], %r3;",
        "lop3.b32 %r3, %r2, 0xffff, 0, 0xc0; st.global.b32 [%rd1], %r3;",
        "fma.rn.bf16x2 %r3, %r2, %r2, %r2; st.global.b16 [%rd1], %r3;",
        "mov.b64 %rd5, {%r2, %r30}; mov.b64 {%h3, %h4, %h5, %h6}, %rd5; st.global.b16 [%rd1], %h3;",
        "shfl.sync.idx.b32 %r3, %r2, 0, 31, 0xffffffff; st.global.b16 [%rd1], %r3;",
    ] {
        assert_eq!(stored(&format!("mov.b32 %r2, {{%h1, %h2}}; {take}")), [], "{take}");
    }
}

#[test]
fn the_half_that_was_never_set_may_not_be_used() {
    for take in [
        "mov.b32 {_, %h3}, %r2; st.global.b16 [%rd1], %h3;",
        "st.global.b32 [%rd1], %r2;",
        "shr.u32 %r3, %r2, 16; st.global.b16 [%rd1], %r3;",
        "shr.u32 %r3, %r2, 4; st.global.b16 [%rd1], %r3;",
        "prmt.b32 %r3, %r2, 0, 0x4420; st.global.b32 [%rd1], %r3;",
        "add.u32 %r3, %r2, 1; st.global.b16 [%rd1], %r3;",
        "and.b32 %r3, %r2, 0x1ffff; st.global.b32 [%rd1], %r3;",
        "setp.eq.u32 %p1, %r2, 7; @%p1 st.global.b16 [%rd1], %h1;",
    ] {
        assert_eq!(stored(&format!("mov.b32 %r2, {{%h1, %h2}}; {take}")), [Rule::UndefinedRegister], "{take}");
    }
}
