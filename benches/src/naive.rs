//! Every kernel as a plain f32 loop: no intrinsics, no blocking, no unsafe.
//!
//! Compiled for the target's baseline. The compiler vectorises the elementwise loops, but may not reorder the sums of
//! the others.
use vit_kernels::{Activation, KvLayout};

/// Softmax of every row, in place.
pub fn softmax(x: &mut [f32], cols: usize) {
    for row in x.chunks_exact_mut(cols) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for x in &mut *row {
            *x = (*x - max).exp();
            sum += *x;
        }
        for x in row {
            *x /= sum;
        }
    }
}

/// LayerNorm of every row of `x` into `out`.
pub fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, out: &mut [f32]) {
    let cols = gamma.len();
    for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(cols)) {
        let mean = x.iter().sum::<f32>() / cols as f32;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / cols as f32;
        let inverse = 1.0 / (variance + eps).sqrt();
        for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
            *out = (x - mean) * inverse * gamma + beta;
        }
    }
}

/// The activation of every element, in place, with libm's erf and the standard library's tanh and exp.
pub fn activate(form: Activation, x: &mut [f32]) {
    for x in x {
        *x *= match form {
            Activation::Gelu => 0.5 * (1.0 + libm::erff(*x * std::f32::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => 0.5 * (1.0 + (0.797_884_6 * (*x + 0.044_715 * *x * *x * *x)).tanh()),
            Activation::QuickGelu => 1.0 / (1.0 + (-1.702 * *x).exp()),
            Activation::Silu => 1.0 / (1.0 + (-*x).exp()),
            Activation::Relu => f32::from(*x > 0.0),
            other => panic!("no naive form of {other:?}"),
        };
    }
}

/// x += y.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Multiplies every element by `factor`.
pub fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// Rotates the halves of each head of each row: a row of `table` has head_dim/2 cosines and as many sines.
pub fn rope(x: &mut [f32], [heads, head_dim]: [usize; 2], table: &[f32]) {
    for (row, table) in x.chunks_exact_mut(heads * head_dim).zip(table.chunks_exact(head_dim)) {
        let (cos, sin) = table.split_at(head_dim / 2);
        for head in row.chunks_exact_mut(head_dim) {
            let (a, b) = head.split_at_mut(head_dim / 2);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// out\[rows, n\] = a\[rows, k\] · w\[n, k\]ᵀ.
pub fn matmul(a: &[f32], w: &[f32], k: usize, out: &mut [f32]) {
    for (a, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(w.len() / k)) {
        for (out, w) in out.iter_mut().zip(w.chunks_exact(k)) {
            *out = dot(a, w);
        }
    }
}

/// out = softmax(q·kᵀ·scale)·v for every head. `q` and `out` are \[rows, inner\], `kv` is \[tokens, 2·inner\], keys
/// before values; `scores`, \[tokens\], is scratch.
pub fn attention(layout: KvLayout, scale: f32, q: &[f32], kv: &[f32], scores: &mut [f32], out: &mut [f32]) {
    let KvLayout { heads, head_dim, tokens } = layout;
    let inner = heads * head_dim;
    for (q, out) in q.chunks_exact(inner).zip(out.chunks_exact_mut(inner)) {
        let heads = q.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim));
        for (head, (q, out)) in heads.enumerate() {
            let column = head * head_dim;
            for (score, row) in scores.iter_mut().zip(kv.chunks_exact(2 * inner)) {
                *score = dot(q, &row[column..][..head_dim]) * scale;
            }
            softmax(scores, tokens);
            out.fill(0.0);
            for (score, row) in scores.iter().zip(kv.chunks_exact(2 * inner)) {
                for (out, v) in out.iter_mut().zip(&row[inner + column..][..head_dim]) {
                    *out += score * v;
                }
            }
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Each naive loop computes the same as its kernel.
#[cfg(test)]
mod tests {
    use vit_kernels::{Attention, Epilogue, Format, Isa, Job, Packed, Rope, elementwise};

    use super::*;
    use crate::{noise, packed};

    fn near(naive: &[f32], kernel: &[f32]) {
        assert_eq!(naive.len(), kernel.len());
        for (i, (naive, kernel)) in naive.iter().zip(kernel).enumerate() {
            assert!((naive - kernel).abs() < 1e-4, "at {i}: {naive}, not {kernel}");
        }
    }

    /// Runs both in place on the same values.
    fn in_place(naive: impl Fn(&mut [f32]), kernel: impl Fn(&mut [f32])) {
        let (mut x, mut y) = (noise(5 * 23, 1), noise(5 * 23, 1));
        naive(&mut x);
        kernel(&mut y);
        near(&x, &y);
    }

    #[test]
    fn rows_and_elements() {
        let (isa, row, all) = (Isa::best(), noise::<f32>(23, 2), noise::<f32>(5 * 23, 3));
        in_place(|x| softmax(x, 23), |x| vit_kernels::softmax(isa, x, 23).unwrap());
        let forms = [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu, Activation::Silu, Activation::Relu];
        for form in forms {
            in_place(|x| activate(form, x), |x| vit_kernels::activate(isa, form, x));
        }
        in_place(|x| add(x, &all), |x| elementwise::add(isa, x, &all).unwrap());
        in_place(|x| scale(x, 0.3), |x| elementwise::scale(isa, x, 0.3));
        let (mut x, mut y) = (vec![0.0; all.len()], vec![0.0; all.len()]);
        layer_norm(&all, &row, &row, 1e-5, &mut x);
        vit_kernels::layer_norm(isa, &all, &row, &row, 1e-5, &mut y).unwrap();
        near(&x, &y);
    }

    #[test]
    fn rotation() {
        let table = noise::<f32>(5 * 6, 2);
        let kernel = |x: &mut [f32]| Rope::new(Isa::best(), x, 18, [3, 6], &table).unwrap().run();
        let (mut x, mut y) = (noise(5 * 18, 1), noise(5 * 18, 1));
        rope(&mut x, [3, 6], &table);
        kernel(&mut y);
        near(&x, &y);
    }

    #[test]
    fn products() {
        let (isa, rows, n, k) = (Isa::best(), 5, 19, 23);
        let (a, w) = (noise::<f32>(rows * k, 1), noise::<f32>(n * k, 2));
        let (mut x, mut y) = (vec![0.0; rows * n], vec![0.0; rows * n]);
        let lines = packed(Format::F32, n, k, &w);
        matmul(&a, &w, k, &mut x);
        let weights = Packed::new(Format::F32, n, k, &lines).unwrap();
        vit_kernels::matmul(isa, &a, weights, Epilogue::default(), &mut y).unwrap();
        near(&x, &y);
    }

    #[test]
    fn attention_of_two_heads() {
        let (rows, layout) = (3, KvLayout { heads: 2, head_dim: 5, tokens: 7 });
        let (q, kv) = (noise::<f32>(rows * 10, 1), noise::<f32>(layout.len().unwrap(), 2));
        let (mut x, mut y) = (vec![0.0; q.len()], vec![0.0; q.len()]);
        attention(layout, 0.4, &q, &kv, &mut [0.0; 7], &mut x);
        Attention::new(Isa::best(), layout, 0.4, &q, &kv[..], &mut y).unwrap().run();
        near(&x, &y);
    }
}
