//! The two roles.

/// Role of one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Role {
    /// Receives; has no device.
    #[default]
    Secondary,
    /// Has the device.
    Primary,
}
