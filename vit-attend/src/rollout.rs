//! From attention probabilities to one number for each token.

/// The mean over heads: \[heads, rows, columns\] to \[rows, columns\], with `len` elements a head. Or one head,
/// counted from 1.
pub fn of_heads(maps: &[f32], len: usize, head: Option<usize>) -> Vec<f64> {
    let mut mean = vec![0.0; len];
    let heads = maps.chunks_exact(len).enumerate().filter(|(index, _)| head.is_none_or(|head| *index + 1 == head));
    let count = if head.is_some() { 1.0 } else { (maps.len() / len) as f64 };
    for (_, map) in heads {
        mean.iter_mut().zip(map).for_each(|(sum, x)| *sum += f64::from(*x) / count);
    }
    mean
}

/// query · map: what queries with these weights, \[tokens\], give to each token, by a map \[tokens, tokens\].
pub fn attended(query: &[f64], map: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; query.len()];
    for (weight, row) in query.iter().zip(map.chunks_exact(query.len())) {
        if *weight != 0.0 {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * x);
        }
    }
    out
}

/// Attention rollout (Abnar and Zuidema 2020, <https://arxiv.org/abs/2005.00928>): how much of each token of the input
/// is in a token of the output, if every layer mixes tokens as its attention and its residual connection do.
///
/// ```text
/// Ā = (mean over heads of A + I), rows divided by their sums
/// rollout = Ā_last · … · Ā_2 · Ā_1
/// ```
/// `maps` are the means over heads of all layers, the first layer first, each \[tokens, tokens\]. Only the rows of
/// `query`, weights \[tokens\], are computed: query · rollout, from the last layer to the first.
pub fn rollout(query: &[f64], maps: &[Vec<f64>]) -> Vec<f64> {
    let tokens = query.len();
    maps.iter().rev().fold(query.to_vec(), |query, map| {
        let sums = map.chunks_exact(tokens).map(|row| 1.0 + row.iter().sum::<f64>());
        let query: Vec<f64> = query.iter().zip(sums).map(|(weight, sum)| weight / sum).collect();
        let mut out = attended(&query, map);
        out.iter_mut().zip(&query).for_each(|(out, own)| *out += own);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let maps = [1.0, 2.0, 3.0, 6.0];
        assert_eq!(of_heads(&maps, 2, None), [2.0, 4.0]);
        assert_eq!(of_heads(&maps, 2, Some(2)), [3.0, 6.0]);
    }

    /// A row of the product of whole matrices, multiplied in the order of the paper.
    #[test]
    fn rollout_is_the_product_of_the_layers() {
        let tokens = 5;
        let layer = |seed: usize| -> Vec<f64> {
            let rows = (0..tokens).flat_map(|row| {
                let raw: Vec<f64> = (0..tokens).map(|i| 1.0 + ((row * 7 + i * 3 + seed * 5) % 11) as f64).collect();
                let sum: f64 = raw.iter().sum();
                raw.into_iter().map(move |x| x / sum)
            });
            rows.collect()
        };
        let maps = [layer(1), layer(2), layer(3)];
        let mut product: Vec<f64> = (0..25).map(|i| f64::from(i % 6 == 0)).collect();
        for map in &maps {
            let mixed: Vec<f64> = (0..25).map(|i| 0.5 * map[i] + 0.5 * f64::from(i % 6 == 0)).collect();
            product = mixed.chunks_exact(5).flat_map(|row| attended(row, &product)).collect();
        }
        for row in 0..tokens {
            let query: Vec<f64> = (0..tokens).map(|i| f64::from(i == row)).collect();
            let got = rollout(&query, &maps);
            for (got, want) in got.iter().zip(&product[row * 5..]) {
                assert!((got - want).abs() < 1e-14, "{got} {want}");
            }
        }
    }
}
