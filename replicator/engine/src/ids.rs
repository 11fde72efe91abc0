//! Identifiers and positions. One newtype per number that names something.
//!
//! Lives here: the newtypes and how they print. Does not live here: who mints them
//! ([`crate::engine`] does, from a seed it is given: the engine has no randomness of its own).

use std::fmt;

macro_rules! wide_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u128);

        impl $name {
            /// The identifier that names nothing.
            pub const NONE: Self = Self(0);

            /// Whether this names nothing.
            pub const fn is_none(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }
    };
}

wide_id!(
    /// A data lineage: the history of one copy up to a moment. Random, never counted: two isolated
    /// sides would count to the same number.
    Epoch
);
wide_id!(
    /// One half of a pair, for the life of its metadata.
    NodeId
);
wide_id!(
    /// The replicated volume, equal on both sides once they have met.
    VolumeId
);
wide_id!(
    /// One period of being Primary in one process; sequence numbers start anew in each.
    RunId
);
wide_id!(
    /// One resync, from its handshake to its adoption.
    ResyncId
);
wide_id!(
    /// One snapshot of a copy.
    SnapshotId
);
wide_id!(
    /// A command of the operator; the same command again has the same identifier.
    CommandId
);

macro_rules! narrow_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);
    };
}

narrow_id!(
    /// One connection of a pair, numbered by the local process.
    SessionId
);
narrow_id!(
    /// A request of the device's user.
    GuestId
);
narrow_id!(
    /// One I/O request to the local data or metadata.
    JobId
);
narrow_id!(
    /// Place of a write in its run, starting at 1; 0 means "before the first".
    Seq
);

impl Seq {
    /// A place that no stream reaches.
    pub const NEVER: Self = Self(1 << 63);

    /// The next place.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A place in a lineage: everything up to `seq` of that run, by the primary's clock at `wall`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Position {
    /// Lineage that the run wrote in.
    pub epoch: Epoch,
    /// The run.
    pub run: RunId,
    /// Last write contained.
    pub seq: Seq,
    /// Everything that the primary completed before this moment of its clock is contained.
    pub wall: crate::time::Wall,
}
