//! What happens to a pair in a round.

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The two cannot talk for a while; the primary goes on.
    Apart(Apart),
    /// The other side is promoted, and the old primary taken back.
    Replaced(Replaced),
    /// The primary's process is killed and goes on as primary.
    PrimaryKilled,
    /// Both processes are killed.
    BothKilled,
    /// The secondary's pool has no room for the snapshot that a copy needs.
    SecondaryFull,
    /// Nothing: fio writes, the roles change, fio reads what it wrote.
    SwitchedOver,
}

/// Why they cannot talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// The secondary's process was killed.
    SecondaryKilled,
    /// The secondary's process stands still.
    SecondaryStopped,
    /// The link is cut.
    LinkCut,
    /// What the primary sends is lost.
    PrimarySilenced,
    /// What the secondary sends is lost.
    SecondarySilenced,
    /// The link carries little.
    LinkSlow,
}

/// What has become of the old primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// It was killed.
    Killed,
    /// Both were killed, and the other side came back first.
    BothKilled,
    /// It stands still, and wakes up when the other side serves.
    Stopped,
    /// It goes on behind a link that is cut; a person chooses the other one.
    CutOff,
}

impl Fault {
    /// What a disk that forgets makes a difference for.
    pub(crate) const POWER_CUTS: [Self; 5] = [
        Self::Apart(Apart::SecondaryKilled),
        Self::Replaced(Replaced::Killed),
        Self::Replaced(Replaced::BothKilled),
        Self::PrimaryKilled,
        Self::BothKilled,
    ];

    pub(crate) const ALL: [Self; 14] = [
        Self::Apart(Apart::SecondaryKilled),
        Self::Apart(Apart::SecondaryStopped),
        Self::Apart(Apart::LinkCut),
        Self::Apart(Apart::PrimarySilenced),
        Self::Apart(Apart::SecondarySilenced),
        Self::Apart(Apart::LinkSlow),
        Self::Replaced(Replaced::Killed),
        Self::Replaced(Replaced::BothKilled),
        Self::Replaced(Replaced::Stopped),
        Self::Replaced(Replaced::CutOff),
        Self::PrimaryKilled,
        Self::BothKilled,
        Self::SecondaryFull,
        Self::SwitchedOver,
    ];
}
