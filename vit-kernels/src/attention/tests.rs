use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::reference;
use crate::testing::{levels, nans, noise};

/// Attention of q, k, v, rows of [heads·head_dim], in blocks of query rows.
fn run(isa: Isa, layout: KvLayout, scale: f32, [q, k, v]: [&[f32]; 3], block: usize) -> Vec<f32> {
    let inner = layout.inner();
    let kv: Vec<f32> =
        (0..layout.tokens).flat_map(|t| [&k[t * inner..][..inner], &v[t * inner..][..inner]].concat()).collect();
    let mut out = vec![7.0; q.len()];
    for (q, out) in q.chunks(block * inner).zip(out.chunks_mut(block * inner)) {
        Attention::new(isa, layout, scale, q, &kv[..], out).unwrap().run();
    }
    out
}

fn check(isa: Isa, rows: usize, layout: KvLayout, scale: f32, spread: f32, seed: u64) {
    let KvLayout { heads, head_dim, tokens } = layout;
    let inner = layout.inner();
    let (q, k) = (noise(rows * inner, seed, spread), noise(tokens * inner, seed + 1, spread));
    let v = noise(tokens * inner, seed + 2, 3.0);
    let got = run(isa, layout, scale, [&q, &k, &v], 1000);
    let part = |x: &[f32], head: usize| -> Vec<f64> {
        x.chunks(inner).flat_map(|row| &row[head * head_dim..][..head_dim]).map(|&x| x.into()).collect()
    };
    for head in 0..heads {
        let (q, k, v, got) = (part(&q, head), part(&k, head), part(&v, head), part(&got, head));
        let (mut scores, mut want) = (vec![0.0; tokens], vec![0.0; rows * head_dim]);
        reference::attention(&q, &k, &v, head_dim, scale.into(), &mut scores, &mut want);
        let largest_v = v.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        for row in 0..rows {
            let q = &q[row * head_dim..][..head_dim];
            let size = |k: &[f64]| q.iter().zip(k).map(|(q, k)| (q * k).abs()).sum::<f64>() * f64::from(scale.abs());
            let s = k.chunks(head_dim).map(size).fold(0.0, f64::max);
            let bound = (16.0 + tokens as f64 + head_dim as f64 * s) * 2f64.powi(-23) * largest_v;
            for i in row * head_dim..(row + 1) * head_dim {
                let error = (got[i] - want[i]).abs();
                assert!(error <= bound, "{isa} {layout:?} row {row}: {} not {}", got[i], want[i]);
            }
        }
    }
}

#[test]
fn bound_holds_around_every_edge() {
    for isa in levels() {
        for tokens in (1..=35).chain([50, 197, 255, 256, 257, 511, 513, 600]) {
            for (heads, head_dim) in [(1, 1), (2, 8), (1, 16), (3, 20), (1, 64), (2, 72)] {
                let rows = [1, 5, 17][tokens % 3];
                check(isa, rows, KvLayout { heads, head_dim, tokens }, 0.3, 1.5, tokens as u64);
            }
        }
        check(isa, 100, KvLayout { heads: 2, head_dim: 16, tokens: 70 }, -0.5, 4.0, 1);
        check(isa, 9, KvLayout { heads: 1, head_dim: 32, tokens: 700 }, 1.0, 6.0, 2);
    }
}

#[test]
fn bits_do_not_depend_on_the_blocks() {
    for isa in levels() {
        let layout = KvLayout { heads: 2, head_dim: 24, tokens: 300 };
        let x: Vec<_> = (0..3).map(|seed| noise(300 * 48, seed, 2.0)).collect();
        let whole = run(isa, layout, 0.2, [&x[0], &x[1], &x[2]], 300);
        for block in [1, 2, 3, 5, 6, 7, 8, 16, 47, 48, 49, 299] {
            assert_eq!(run(isa, layout, 0.2, [&x[0], &x[1], &x[2]], block), whole, "{isa} blocks of {block}");
        }
    }
}

/// The probabilities of a head in f64, with the bias looked up element by element.
fn probabilities(
    q: &[f64],
    k: &[f64],
    head: usize,
    scale: f64,
    bias: Option<RelativeBias<'_>>,
    first: usize,
) -> Vec<f64> {
    let head_dim = 20;
    let tokens = k.len() / head_dim;
    let mut scores = vec![0.0; q.len() / head_dim * tokens];
    reference::matmul(q, k, head_dim, &mut scores);
    for (i, score) in scores.iter_mut().enumerate() {
        let (query, key) = (first + i / tokens, i % tokens);
        let bias = bias.map_or(0.0, |RelativeBias { table, grid: [h, w], .. }| {
            let len = (2 * h - 1) * (2 * w - 1) + 3;
            let index = match (query.checked_sub(1), key.checked_sub(1)) {
                (None, None) => len - 1,
                (Some(_), None) => len - 2,
                (None, Some(_)) => len - 3,
                (Some(q), Some(k)) => (q / w + h - 1 - k / w) * (2 * w - 1) + q % w + w - 1 - k % w,
            };
            table[head * len + index].into()
        });
        *score = *score * scale + bias;
    }
    reference::softmax(&mut scores, tokens);
    scores
}

#[test]
fn maps_and_bias_are_the_formula() {
    let (heads, head_dim, scale) = (2, 20, 0.3);
    for (isa, grid) in levels().into_iter().flat_map(|isa| [[1, 1], [3, 2], [7, 9], [4, 70]].map(|grid| (isa, grid))) {
        let tokens = grid[0] * grid[1] + 1;
        let layout = KvLayout { heads, head_dim, tokens };
        let (q, kv) = (noise(tokens * 40, 1, 1.5), noise(tokens * 80, 2, 1.5));
        let table = noise(heads * RelativeBias::row_len(grid).unwrap(), 3, 2.0);
        for (biased, first) in [(false, 0), (true, 0), (true, tokens / 2)] {
            let bias = biased.then_some(RelativeBias { table: &table, grid, first_query: first });
            let q = &q[first * 40..];
            let scores = || {
                let scores = Scores::new(isa, layout, scale, q, &kv[..]).unwrap();
                bias.map_or(Ok(scores), |bias| Scores::new(isa, layout, scale, q, &kv[..]).unwrap().with_bias(bias))
                    .unwrap()
            };
            let (mut maps, mut out) = (vec![9.0; heads * tokens * tokens], vec![9.0; q.len()]);
            scores().maps(first, tokens, &mut maps).unwrap().run();
            scores().attend(&mut out).unwrap().run();
            for head in 0..heads {
                let part = |x: &[f32], row: usize, column: usize| -> Vec<f64> {
                    x.chunks(row).flat_map(|x| &x[column + head * head_dim..][..head_dim]).map(|&x| x.into()).collect()
                };
                let (q, k, v) = (part(q, 40, 0), part(&kv, 80, 0), part(&kv, 80, 40));
                let p = probabilities(&q, &k, head, scale.into(), bias, first);
                let got = &maps[(head * tokens + first) * tokens..][..p.len()];
                // S is below 0.3·20·1.5² + 2.
                let bound = (16.0 + tokens as f64 + 20.0 * 15.5) * 2f64.powi(-23);
                for (got, p) in got.iter().zip(&p) {
                    assert!((f64::from(*got) - p).abs() <= bound * p, "{isa} {grid:?} {biased}: {got} not {p}");
                }
                for (p, got) in p.chunks(tokens).zip(out.chunks(40)) {
                    for i in 0..head_dim {
                        let want: f64 = p.iter().zip(v.chunks(head_dim)).map(|(p, v)| p * v[i]).sum();
                        let got = f64::from(got[head * head_dim + i]);
                        assert!((got - want).abs() <= bound * 1.5, "{isa} {grid:?} {biased}: {got} not {want}");
                    }
                }
            }
            assert!(maps[..first * tokens].iter().all(|&x| x == 9.0), "rows before the first are left alone");
            if !biased {
                let mut one = vec![9.0; heads * tokens];
                Scores::new(isa, layout, scale, &q[..40], &kv[..]).unwrap().maps(0, 1, &mut one).unwrap().run();
                let first_rows = maps.chunks_exact(tokens * tokens).flat_map(|map| &map[..tokens]);
                assert!(one.iter().eq(first_rows), "{isa} {grid:?}: one query alone has other bits");
            }
        }
    }
}

#[test]
fn special_values() {
    let layout = KvLayout { heads: 1, head_dim: 4, tokens: 20 };
    for isa in levels() {
        let (q, k, v) = (noise(8, 1, 1.0), noise(80, 2, 1.0), noise(80, 3, 1.0));
        let with = |x: &[f32], at: usize, value: f32| {
            let mut x = x.to_vec();
            x[at] = value;
            x
        };
        for nan in nans() {
            let out = run(isa, layout, 0.5, [&with(&q, 1, nan), &k, &v], 20);
            assert!(out[..4].iter().all(|x| x.is_nan()) && out[4..].iter().all(|x| x.is_finite()), "{isa}");
            let out = run(isa, layout, 0.5, [&q, &with(&k, 77, nan), &v], 20);
            assert!(out.iter().all(|x| x.is_nan()), "{isa}");
            let out = run(isa, layout, 0.5, [&q, &k, &with(&v, 77, nan)], 20);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_nan() == (i % 4 == 1)), "{isa}");
        }
    }
}

#[test]
fn nan_shows_in_the_maps_and_in_every_block_of_keys() {
    for isa in levels() {
        for tokens in [20, KEY_BLOCK + 20] {
            let layout = KvLayout { heads: 1, head_dim: 4, tokens };
            for nan in nans() {
                for key in [0, 3, tokens - 1] {
                    let (q, mut kv) = (noise(8, 1, 1.0), noise(8 * tokens, 2, 1.0));
                    kv[8 * key + 2] = nan;
                    let (mut maps, mut out) = (vec![0.0; tokens * tokens], vec![0.0; 8]);
                    Scores::new(isa, layout, 0.5, &q, &kv[..]).unwrap().maps(0, tokens, &mut maps).unwrap().run();
                    Scores::new(isa, layout, 0.5, &q, &kv[..]).unwrap().attend(&mut out).unwrap().run();
                    assert!(maps[..2 * tokens].iter().all(|x| x.is_nan()), "{isa} key {key} of {tokens}");
                    assert!(out.iter().all(|x| x.is_nan()), "{isa} key {key} of {tokens}");
                }
            }
        }
    }
}

#[test]
fn without_tokens_it_is_0_by_0() {
    for isa in levels() {
        let layout = KvLayout { heads: 2, head_dim: 3, tokens: 0 };
        let mut out = [1.0; 12];
        Attention::new(isa, layout, 1.0, &[0.5; 12], &[], &mut out).unwrap().run();
        assert!(out.iter().all(|x| x.is_nan()), "{isa}");
    }
}

#[test]
fn stack_use_is_as_documented() {
    fn bytes<O: Operand, const Q: usize>() -> usize {
        size_of::<Block<Q>>() + size_of::<O::Scratch<Q>>()
    }
    assert_eq!((bytes::<Binary32<'_>, LANES>(), bytes::<Binary32<'_>, 48>()), (21_632, 64_896));
    assert_eq!((bytes::<Bf16Kv<'_>, LANES>(), bytes::<Bf16Kv<'_>, 48>()), (27_776, 83_328));
    assert_eq!((bytes::<QuantisedKv<'_>, LANES>(), bytes::<QuantisedKv<'_>, 48>()), (25_984, 77_952));
}

#[test]
fn shapes() {
    let (isa, layout) = (Isa::best(), KvLayout { heads: 2, head_dim: 3, tokens: 5 });
    let kv = vec![0.0; layout.len().unwrap()];
    let mut out = [0.0; 12];
    assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], &kv[..], &mut out).is_ok());
    assert!(Attention::new(isa, layout, 1.0, &[0.0; 11], &kv[..], &mut out[..11]).is_err());
    assert!(Attention::new(isa, layout, 1.0, &[0.0; 6], &kv[..], &mut out).is_err());
    assert!(Attention::new(isa, layout, 1.0, &[0.0; 12], &kv[1..], &mut out).is_err());
    assert_eq!(KvLayout { heads: usize::MAX / 2, head_dim: 7, tokens: 5 }.len(), None);

    let scores = || Scores::new(isa, layout, 1.0, &[0.0; 12], &kv[..]).unwrap();
    let bias = RelativeBias { table: &[0.0; 24], grid: [2, 2], first_query: 3 };
    assert!(scores().with_bias(bias).is_ok());
    assert!(scores().with_bias(RelativeBias { first_query: 4, ..bias }).is_err());
    assert!(scores().with_bias(RelativeBias { grid: [4, 1], ..bias }).is_err());
    assert!(scores().with_bias(RelativeBias { grid: [usize::MAX, 2], ..bias }).is_err());
    assert!(scores().with_bias(RelativeBias { table: &[0.0; 23], ..bias }).is_err());
    assert!(scores().maps(3, 5, &mut [0.0; 50]).is_ok() && scores().maps(4, 5, &mut [0.0; 50]).is_err());
    assert!(scores().maps(0, 2, &mut [0.0; 20]).is_ok() && scores().maps(0, 1, &mut [0.0; 10]).is_err());
    assert!(scores().maps(0, 5, &mut [0.0; 49]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_shape(rows in 1usize..20, heads in 1usize..4, head_dim in 1usize..40, tokens in 1usize..300, seed in 1u64..99) {
        for isa in levels() {
            check(isa, rows, KvLayout { heads, head_dim, tokens }, 0.4, 2.0, seed);
        }
    }
}
