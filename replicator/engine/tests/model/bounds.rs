//! How far a search goes: what may happen in one life of a pair, and how often.

use std::time::Duration;

use drqm_engine::settings::{Mode, OnPeerLoss, SnapshotPolicy, WhenPeerUnknown};

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) writes: u8,
    pub(crate) flushes: u8,
    /// Breaks of the link, each with everything on its way.
    pub(crate) cuts: u8,
    pub(crate) connects: u8,
    /// Processes killed; sides that lose their power.
    pub(crate) kills: u8,
    pub(crate) power_cuts: u8,
    /// Promotions that may lose nothing; that may.
    pub(crate) promotions: u8,
    pub(crate) promotions_apart: u8,
    pub(crate) demotions: u8,
    /// Words that give a side's own history up; that keep it.
    pub(crate) resolutions: u8,
    pub(crate) second_thoughts: u8,
    /// Times that a copy is taken back to its snapshot.
    pub(crate) reverts: u8,
    /// Times at which it grows late enough for the next timer.
    pub(crate) waits: u8,
}

/// One search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) snapshots: SnapshotPolicy,
    pub(crate) keeps_log: bool,
    /// How long a started Primary waits for the other side's word.
    pub(crate) peer_check: Duration,
    pub(crate) when_peer_unknown: WhenPeerUnknown,
    pub(crate) on_peer_loss: OnPeerLoss,
    /// Side 0, which begins as Primary, is not lost.
    pub(crate) only_secondary_lost: bool,
    /// Requests to a side's disks end at once.
    pub(crate) is_coarse: [bool; 2],
    pub(crate) budget: Budget,
}

impl Bounds {
    const fn new(name: &'static str, mode: Mode, budget: Budget) -> Self {
        Self {
            name,
            mode,
            snapshots: SnapshotPolicy::Never,
            keeps_log: false,
            peer_check: Duration::from_secs(30),
            when_peer_unknown: WhenPeerUnknown::Start,
            on_peer_loss: OnPeerLoss::Continue,
            only_secondary_lost: false,
            is_coarse: [true; 2],
            budget,
        }
    }

    /// Requests to disks end one by one, at any time.
    const fn fine(self) -> Self {
        Self {
            is_coarse: [false; 2],
            ..self
        }
    }

    /// Only side 1's requests end at any time, and only it is lost.
    const fn fine_secondary(self) -> Self {
        Self {
            only_secondary_lost: true,
            is_coarse: [true, false],
            ..self
        }
    }

    /// A started Primary does not wait for the other side's word.
    const fn impatient(self) -> Self {
        Self {
            peer_check: Duration::ZERO,
            ..self
        }
    }

    /// A started Primary does not serve without the other side's word.
    const fn holding(self) -> Self {
        Self {
            peer_check: Duration::ZERO,
            when_peer_unknown: WhenPeerUnknown::Hold,
            ..self
        }
    }

    /// Writes wait while the other side is away.
    const fn suspending(self) -> Self {
        Self {
            on_peer_loss: OnPeerLoss::SuspendIo,
            ..self
        }
    }

    const fn with_log(self) -> Self {
        Self {
            keeps_log: true,
            ..self
        }
    }

    const fn with_snapshots(self) -> Self {
        Self {
            snapshots: SnapshotPolicy::Required,
            ..self
        }
    }
}

const NOTHING: Budget = Budget {
    writes: 0,
    flushes: 0,
    cuts: 0,
    connects: 0,
    kills: 0,
    power_cuts: 0,
    promotions: 0,
    promotions_apart: 0,
    demotions: 0,
    resolutions: 0,
    second_thoughts: 0,
    reverts: 0,
    waits: 0,
};

/// The searches of every verification.
pub(crate) const SHORT: &[Bounds] = &[
    Bounds::new(
        "switch",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions: 1,
            demotions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "either way",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions: 1,
            promotions_apart: 1,
            demotions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "superseded",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            kills: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .impatient(),
    Bounds::new(
        "apart",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "lost",
        Mode::Asynchronous,
        Budget {
            writes: 2,
            flushes: 1,
            connects: 1,
            power_cuts: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "lost, with a log",
        Mode::Asynchronous,
        Budget {
            writes: 2,
            flushes: 1,
            connects: 1,
            power_cuts: 1,
            ..NOTHING
        },
    )
    .with_log(),
    Bounds::new(
        "reverted",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 2,
            connects: 2,
            reverts: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .with_snapshots(),
    Bounds::new(
        "suspended",
        Mode::Synchronous,
        Budget {
            writes: 2,
            cuts: 1,
            connects: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .suspending(),
    Bounds::new(
        "held",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            kills: 1,
            connects: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .holding(),
    Bounds::new(
        "timers",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions: 1,
            waits: 2,
            ..NOTHING
        },
    ),
    Bounds::new(
        "adopted",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 2,
            power_cuts: 1,
            ..NOTHING
        },
    )
    .fine_secondary(),
    Bounds::new(
        "any order",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            ..NOTHING
        },
    )
    .fine(),
];

/// The searches that take longer.
pub(crate) const LONG: &[Bounds] = &[
    Bounds::new(
        "apart, two writes",
        Mode::Asynchronous,
        Budget {
            writes: 2,
            cuts: 1,
            connects: 1,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "apart, two cuts",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 2,
            connects: 2,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "apart, two cuts, with a log",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 2,
            connects: 2,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    )
    .with_log(),
    Bounds::new(
        "apart and lost",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            connects: 1,
            power_cuts: 1,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "twice apart",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions_apart: 2,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "synchronous",
        Mode::Synchronous,
        Budget {
            writes: 2,
            flushes: 1,
            connects: 1,
            power_cuts: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "flush-synchronous",
        Mode::FlushSynchronous,
        Budget {
            writes: 2,
            flushes: 1,
            connects: 1,
            power_cuts: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "two switches",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions: 2,
            demotions: 2,
            ..NOTHING
        },
    ),
    Bounds::new(
        "killed, with a log",
        Mode::Asynchronous,
        Budget {
            writes: 2,
            connects: 2,
            kills: 1,
            cuts: 1,
            ..NOTHING
        },
    )
    .with_log(),
    Bounds::new(
        "reverted and lost",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            connects: 2,
            cuts: 1,
            power_cuts: 1,
            reverts: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .with_snapshots(),
    Bounds::new(
        "any order, switch",
        Mode::Asynchronous,
        Budget {
            cuts: 1,
            connects: 1,
            promotions: 1,
            demotions: 1,
            ..NOTHING
        },
    )
    .fine(),
    Bounds::new(
        "any order, lost",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            connects: 1,
            power_cuts: 1,
            ..NOTHING
        },
    )
    .fine(),
    Bounds::new(
        "lost twice",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            flushes: 1,
            connects: 2,
            power_cuts: 2,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .impatient(),
    Bounds::new(
        "any order, apart",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .fine(),
    Bounds::new(
        "switched and apart",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 1,
            connects: 2,
            promotions: 1,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "second thoughts",
        Mode::Asynchronous,
        Budget {
            writes: 1,
            cuts: 2,
            connects: 2,
            promotions_apart: 1,
            demotions: 1,
            resolutions: 2,
            second_thoughts: 1,
            ..NOTHING
        },
    ),
    Bounds::new(
        "stated",
        Mode::Asynchronous,
        Budget {
            writes: 2,
            cuts: 1,
            promotions_apart: 1,
            waits: 2,
            ..NOTHING
        },
    ),
    Bounds::new(
        "suspended, lost",
        Mode::Synchronous,
        Budget {
            writes: 2,
            flushes: 1,
            connects: 2,
            power_cuts: 1,
            promotions_apart: 1,
            ..NOTHING
        },
    )
    .suspending(),
];
