//! The f64 reference of every kernel, for tests, benchmarks and fuzzing. Plain code, never optimised.
//!
//! Functions panic if a slice's length does not fit the shapes.
use crate::activation::Activation;

/// eˣ.
pub fn exp(x: f64) -> f64 {
    libm::exp(x)
}

/// The error function.
pub fn erf(x: f64) -> f64 {
    libm::erf(x)
}

/// An activation. −∞ gives NaN (∞·0), as in PyTorch, with ReLU 0. GELU uses erfc, which is accurate in the tail.
pub fn activate(form: Activation, x: f64) -> f64 {
    let gate = match form {
        Activation::Gelu => 0.5 * libm::erfc(-x / core::f64::consts::SQRT_2),
        Activation::GeluTanh => sigmoid(2.0 * libm::sqrt(2.0 / core::f64::consts::PI) * (x + 0.044715 * x * x * x)),
        Activation::QuickGelu => sigmoid(1.702 * x),
        Activation::Silu => sigmoid(x),
        Activation::Relu => return if x < 0.0 { 0.0 } else { x },
    };
    x * gate
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

/// Softmax of every row of `cols`, in place: eˣ⁻ᵐ / Σ eˣ⁻ᵐ with m the row's maximum.
pub fn softmax(x: &mut [f64], cols: usize) {
    for row in x.chunks_exact_mut(cols.max(1)) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a });
        let mut sum = 0.0;
        for x in &mut *row {
            *x = libm::exp(*x - max);
            sum += *x;
        }
        for x in row {
            *x /= sum;
        }
    }
}

/// LayerNorm of every row, in place: (x − mean) / √(variance + eps) · gamma + beta, with the biased variance.
pub fn layer_norm(x: &mut [f64], gamma: &[f64], beta: &[f64], eps: f64) {
    let cols = gamma.len();
    for row in x.chunks_exact_mut(cols.max(1)) {
        let mean = row.iter().sum::<f64>() / cols as f64;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / cols as f64;
        for ((x, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
            *x = (*x - mean) / libm::sqrt(variance + eps) * gamma + beta;
        }
    }
}

/// out\[m, n\] = Σₖ a\[m, k\]·w\[n, k\], with the weights \[out, in\] as PyTorch's `nn.Linear` stores them.
pub fn matmul(a: &[f64], w: &[f64], k: usize, out: &mut [f64]) {
    let Some(n) = w.len().checked_div(k) else { return out.fill(0.0) };
    for (i, out) in out.iter_mut().enumerate() {
        let (row, column) = (i / n, i % n);
        let pairs = a[row * k..][..k].iter().zip(&w[column * k..][..k]);
        *out = pairs.map(|(a, w)| a * w).sum();
    }
}

/// One head of attention: out = softmax(q·kᵀ·scale)·v. q and out are \[rows, d\], k and v \[tokens, d\]; `scores`
/// holds \[tokens\].
pub fn attention(q: &[f64], k: &[f64], v: &[f64], d: usize, scale: f64, scores: &mut [f64], out: &mut [f64]) {
    for (q, out) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
        for (score, k) in scores.iter_mut().zip(k.chunks_exact(d)) {
            *score = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * scale;
        }
        softmax(scores, scores.len());
        for (i, out) in out.iter_mut().enumerate() {
            *out = scores.iter().zip(v.chunks_exact(d)).map(|(p, v)| p * v[i]).sum();
        }
    }
}

/// Rotates one head of a row. Elements j and j + head_dim/2 are a point; `table` has the cosines, then the sines.
pub fn rope(head: &mut [f64], table: &[f64]) {
    let half = head.len() / 2;
    for j in 0..half {
        let (a, b, cos, sin) = (head[j], head[j + half], table[j], table[j + half]);
        (head[j], head[j + half]) = (a * cos - b * sin, b * cos + a * sin);
    }
}
