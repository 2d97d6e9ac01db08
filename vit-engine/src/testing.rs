//! Helpers for the tests of this crate.
use crate::config::Config;

/// A small model whose sizes all differ.
pub(crate) fn tiny() -> Config {
    Config { head_dim: 10, attention_scale: 0.3, mlp_dim: 40, classes: 7, ..Config::plain([12, 20], [6, 4], 24, 2, 3) }
}
