//! What a user may ask a forward pass for.
use crate::config::{Config, Pool};

/// The output of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// The head's outputs, \[batch, classes\].
    Logits,
    /// The class token after the final norm (where the model has one), \[batch, dim\].
    Class,
    /// The patch tokens after the final norm (where the model has one), \[batch, patches, dim\].
    Patches,
}

impl Features {
    /// Elements of the output for one image; `None` where the model does not have it.
    pub fn len(self, config: &Config) -> Option<usize> {
        match self {
            Self::Logits => Some(config.classes).filter(|classes| *classes > 0),
            Self::Class => config.class_token.then_some(config.dim),
            Self::Patches => config.patches().checked_mul(config.dim),
        }
    }

    /// Whether the class token is all that the last layer has to deliver: the other rows of it are not computed.
    pub(crate) fn needs_class_alone(self, config: &Config) -> bool {
        match self {
            Self::Logits => config.pool == Pool::Class,
            Self::Class => true,
            Self::Patches => false,
        }
    }
}
