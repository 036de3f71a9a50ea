//! A rule that nobody has published, written in five lines: one decay per head, an erase gate per key channel that need
//! not equal what is written, and a write gate per head. It runs on the CPU; with NVRTC installed, `vm` as argument runs
//! the generated CUDA kernel on the virtual machine, and `cuda:0` on a GPU.

use gdn2::{Shape, View};

gdn2::delta_rule! {
    /// Forgets by head, erases by channel, writes by head.
    pub mod selective {
        decay: scalar; erase: channel; write: scalar;
        key_dim: 32; value_dim: 32; dtype: bf16;
    }
}

#[allow(dead_code, reason = "a test calls `ask`")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    ask(&std::env::args().nth(1).unwrap_or("cpu".to_owned()).parse()?)
}

/// Writes two keys, erases one, asks for both.
pub fn ask(device: &gdn2::Device) -> Result<(), Box<dyn std::error::Error>> {
    let kernels = selective::load(device)?;
    for explanation in kernels.explain(Shape::dense(1, 4, 1, 1)) {
        println!("{explanation}");
    }

    // Two keys at right angles. The third token erases the first key's value and nothing else, then asks for both.
    let (mut q, mut k, mut v) = ([0.0; 4 * 32], [0.0; 4 * 32], [0.0; 4 * 32]);
    let (mut b, mut w) = ([0.0; 4 * 32], [0.0; 4]);
    (k[0], v[0], w[0]) = (1.0, 5.0, 1.0);
    (k[32 + 1], v[32], w[1]) = (1.0, 7.0, 1.0);
    (k[2 * 32], b[2 * 32]) = (1.0, 1.0);
    q[2 * 32] = 1.0;
    q[3 * 32 + 1] = 1.0;
    let out = kernels.forward(selective::Forward {
        q: View::new(&q, [1, 4, 1, 32])?,
        k: View::new(&k, [1, 4, 1, 32])?,
        v: View::new(&v, [1, 4, 1, 32])?,
        g: View::new(&[0.0; 4], [1, 4, 1])?,
        b: View::new(&b, [1, 4, 1, 32])?,
        w: View::new(&w, [1, 4, 1])?,
        initial_state: None,
        cu_seqlens: None,
        scale: Some(1.0),
    })?;
    let o = out.o.to_f32();
    println!("the first key, after it was erased: {}", o[2 * 32]);
    println!("the second key, untouched: {}", o[3 * 32]);
    assert_eq!((o[2 * 32], o[3 * 32]), (0.0, 7.0));
    Ok(())
}
