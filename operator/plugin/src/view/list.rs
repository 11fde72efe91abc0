//! The table of `kubectl drqm status` without a name.

use drqm_api::{
    conditions::condition,
    names,
    v1alpha1::{DrQueueManager, DrQueueManagerStatus},
};
use jiff::Timestamp;
use kube::ResourceExt;

use super::{Detail, age, since, stamp};
use crate::cluster::Scope;

struct Column {
    header: &'static str,
    detail: Detail,
    cell: fn(&DrQueueManager, &DrQueueManagerStatus, Timestamp) -> Option<String>,
}

const NAMESPACE: Column = Column {
    header: "NAMESPACE",
    detail: Detail::Plain,
    cell: |object, _, _| object.namespace(),
};

/// The columns of `kubectl get drqm`, with the words for people.
const COLUMNS: &[Column] = &[
    plain("NAME", |object, _, _| Some(object.name_any())),
    plain("QMGR", |object, _, _| {
        Some(object.spec.queue_manager.name.clone())
    }),
    plain("ROLE", |_, status, _| {
        Some(names::effective_role(status.role).to_owned())
    }),
    plain("DESIRED", |object, _, _| {
        Some(names::role(object.spec.role).to_owned())
    }),
    plain("QM-STATUS", |_, status, _| {
        Some(names::queue_manager_status(status.queue_manager.status).to_owned())
    }),
    plain("DR-STATUS", |_, status, _| {
        Some(names::dr_status(status.dr.status).to_owned())
    }),
    plain("OUT-OF-SYNC", |_, status, _| status.dr.out_of_sync.clone()),
    plain("SYNC%", |_, status, _| {
        status.dr.sync_progress_percent.clone()
    }),
    plain("AGE", |object, _, now| {
        object
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| age(since(time.0, now)))
    }),
    wide("READY", |_, status, _| reason(status, condition::READY)),
    wide("TYPE", |_, status, _| {
        status.dr.type_.map(|mode| names::mode(mode).to_owned())
    }),
    wide("ETA", |_, status, _| {
        status
            .dr
            .estimated_completion_time
            .as_ref()
            .map(|time| stamp(time.0))
    }),
    wide("RECOVERY-POINT", |_, status, _| {
        status
            .recovery_point
            .as_ref()?
            .time
            .as_ref()
            .map(|time| stamp(time.0))
    }),
    wide("PEER", |_, status, _| status.peer.as_ref()?.name.clone()),
    wide("PEER-ROLE", |_, status, _| {
        status
            .peer
            .as_ref()
            .map(|peer| names::effective_role(peer.role).to_owned())
    }),
    wide("PROMOTABLE", |_, status, _| {
        reason(status, condition::PROMOTABLE)
    }),
    wide("NODE", |_, status, _| status.node.clone()),
    wide("REASON", |_, status, _| {
        status
            .request
            .as_ref()
            .map(|request| request.reason.clone())
    }),
];

type Cell = fn(&DrQueueManager, &DrQueueManagerStatus, Timestamp) -> Option<String>;

const fn plain(header: &'static str, cell: Cell) -> Column {
    Column {
        header,
        detail: Detail::Plain,
        cell,
    }
}

const fn wide(header: &'static str, cell: Cell) -> Column {
    Column {
        header,
        detail: Detail::Wide,
        cell,
    }
}

fn reason(status: &DrQueueManagerStatus, type_: &str) -> Option<String> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .map(|condition| condition.reason.clone())
}

/// Header and one row per object; a cell that says nothing is `-`, so that columns can be counted.
pub(crate) fn rows(
    objects: &[DrQueueManager],
    scope: Scope,
    detail: Detail,
    now: Timestamp,
) -> Vec<Vec<String>> {
    let columns: Vec<&Column> = (scope == Scope::Cluster)
        .then_some(&NAMESPACE)
        .into_iter()
        .chain(
            COLUMNS
                .iter()
                .filter(|column| detail == Detail::Wide || column.detail == Detail::Plain),
        )
        .collect();
    let none = DrQueueManagerStatus::default();
    let header = columns
        .iter()
        .map(|column| column.header.to_owned())
        .collect();
    let body = objects.iter().map(|object| {
        let status = object.status.as_ref().unwrap_or(&none);
        columns
            .iter()
            .map(|column| (column.cell)(object, status, now).unwrap_or_else(|| "-".to_owned()))
            .collect()
    });
    std::iter::once(header).chain(body).collect()
}
