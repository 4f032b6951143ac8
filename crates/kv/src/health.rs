//! Asks etcd for its alarms.
//!
//! Only reads them. Disarming is for people: an alarm that goes by itself would come back unseen.

use std::collections::BTreeSet;

use etcd_client::{AlarmAction, AlarmType};

use crate::alarm::Alarm;
use crate::fault::CallError;
use crate::session::Session;

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
