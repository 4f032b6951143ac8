//! Alarms: what etcd says of its own health, and what to do about it.
//!
//! Only reads them. Disarming is for people: an alarm that goes by itself would come back unseen.

use std::collections::BTreeSet;
use std::fmt;

use etcd_client::{AlarmAction, AlarmType};

use crate::fault::CallError;
use crate::session::Session;

/// A state in which etcd refuses calls until somebody disarms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// The quota is used up: no puts, no new leases. Reads, deletions and renewals go on.
    NoSpace,
    /// Members hold different data: nothing goes on.
    Corrupt,
}

impl Alarm {
    pub const ALL: [Self; 2] = [Self::NoSpace, Self::Corrupt];

    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::NoSpace => {
                "make room: etcdctl compact REVISION (of etcdctl endpoint status -w fields), etcdctl defrag, \
                 then etcdctl alarm disarm; if that doesn't last, raise --quota-backend-bytes"
            }
            Self::Corrupt => {
                "find the member whose etcdctl endpoint hashkv differs, replace it, then etcdctl alarm disarm; an \
                 etcd of one member may be wiped: its records are written anew"
            }
        }
    }
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        })
    }
}

/// The alarms that any member has raised.
pub async fn alarms(session: &Session) -> Result<BTreeSet<Alarm>, CallError> {
    let mut client = session.maintenance();
    let listing = client.alarm(AlarmAction::Get, AlarmType::None, None);
    let answer = session.call("reading the alarms", listing).await?;
    Ok(answer.alarms().iter().filter_map(|member| known(member.alarm())).collect())
}

fn known(alarm: AlarmType) -> Option<Alarm> {
    match alarm {
        AlarmType::None => None,
        AlarmType::Nospace => Some(Alarm::NoSpace),
        AlarmType::Corrupt => Some(Alarm::Corrupt),
    }
}

/// Raises an alarm as etcd itself would.
#[cfg(feature = "testing")]
pub async fn raise(session: &Session, alarm: Alarm) -> Result<(), CallError> {
    let kind = match alarm {
        Alarm::NoSpace => AlarmType::Nospace,
        Alarm::Corrupt => AlarmType::Corrupt,
    };
    let mut client = session.maintenance();
    session.call("raising an alarm", client.alarm(AlarmAction::Activate, kind, None)).await?;
    Ok(())
}
