//! The omissions of a Service that its owner should hear of, in words. Pure.

use std::fmt::Write;

use mesh_model::name::{ClusterId, ServiceName};
use mesh_model::reason::{Omission, Reason, Teller};
use mesh_source::kubernetes::{Notice, Subject, upper_camel};

use crate::merge::names::ClusterNames;

/// `all`: the Service's. `uid`: the object's.
pub(super) fn notices(
    (name, uid): (&ServiceName, Option<&String>),
    all: &[Omission],
    own: ClusterId,
    clusters: &ClusterNames,
) -> Vec<Notice> {
    let told = all.iter().filter(|omission| is_told(omission, all));
    let notice = |omission: &Omission| Notice {
        subject: Subject::Service { name: name.clone(), uid: uid.cloned() },
        reason: upper_camel(omission.reason.as_str()),
        key: key(omission),
        action: "Balance",
        warning: true,
        message: message(omission, own, clusters),
    };
    told.map(notice).collect()
}

fn is_told(omission: &Omission, all: &[Omission]) -> bool {
    let lacks_endpoints =
        |other: &Omission| other.reason == Reason::NoEndpoints && other.cluster == omission.cluster;
    match omission.reason {
        // A dual-stack cluster serves a Service that is not by the family that it has.
        Reason::OtherFamily => all.iter().any(lacks_endpoints),
        reason => reason.teller() == Teller::Agents,
    }
}

/// The cluster and port that it is about.
fn key(omission: &Omission) -> String {
    let cluster = omission.cluster.map_or(0, ClusterId::value);
    omission.port.as_ref().map_or_else(|| cluster.to_string(), |port| format!("{cluster}/{port}"))
}

/// The same on every node.
fn message(omission: &Omission, own: ClusterId, clusters: &ClusterNames) -> String {
    let Omission { cluster, port, reason, detail, .. } = omission;
    let mut text = match cluster {
        Some(id) if *id != own => match clusters.get(id) {
            Some(name) => format!("cluster {name}"),
            None => format!("cluster {id}"),
        },
        _ => "this cluster".into(),
    };
    if let Some(port) = port {
        // Into a String: never fails.
        let _ = write!(text, ", port {port}");
    }
    let _ = write!(text, ": {}", reason.meaning());
    if detail != reason.meaning() {
        let _ = write!(text, "; {detail}");
    }
    text
}

#[cfg(test)]
mod tests {
    use mesh_model::name::ClusterName;
    use mesh_model::snapshot::{Protocol, ServicePort};

    use super::*;

    fn id(id: u64) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    fn told(all: &[Omission]) -> Vec<Notice> {
        let clusters = [(id(2), ClusterName::new("yavin").unwrap())].into();
        notices((&"ns/base".parse().unwrap(), Some(&"uid".into())), all, id(1), &clusters)
    }

    #[test]
    fn the_words_name_cluster_port_fault_and_remedy() {
        let http = ServicePort { name: None, protocol: Protocol::Tcp, port: 80 };
        let detail = "it exposes web 8080/TCP: give the port that shall serve the same name";
        let mismatch = Omission::new(Reason::PortMismatch, detail).of(id(2));
        let [notice] = &told(&[Omission { port: Some(http), endpoints: 3, ..mismatch }])[..] else {
            panic!("one")
        };
        assert_eq!((&*notice.reason, &*notice.key), ("PortMismatch", "2/80/TCP"));
        let said = "cluster yavin, port 80/TCP: the other cluster's Service has no port of that name, nor one of that \
                    protocol and number; it exposes web 8080/TCP: give the port that shall serve the same name";
        assert_eq!(notice.message, said);
    }

    #[test]
    fn what_is_ordinary_or_nothing_for_owners_is_not_told() {
        let all: Vec<_> = Reason::ALL.iter().map(|reason| Omission::new(*reason, "").of(id(2))).collect();
        let wanted =
            all.iter().map(|omission| omission.reason).filter(|reason| reason.teller() == Teller::Agents);
        let wanted: Vec<_> = wanted.map(|reason| upper_camel(reason.as_str())).collect();
        assert_eq!(told(&all).into_iter().map(|notice| notice.reason).collect::<Vec<_>>(), wanted);
        assert!(wanted.contains(&"PortNotServed".into()) && !wanted.contains(&"NotOffered".into()));
    }

    #[test]
    fn another_family_is_told_only_where_it_leaves_a_cluster_out() {
        let other = Omission::new(Reason::OtherFamily, "make it dual-stack").of(id(2));
        assert!(told(std::slice::from_ref(&other)).is_empty(), "its other addresses serve");
        let none = |cluster| Omission::new(Reason::NoEndpoints, "it has no IPv4 endpoint").of(id(cluster));
        assert!(told(&[other.clone(), none(3)]).is_empty());
        assert_eq!(told(&[other, none(2)]).len(), 1);
    }
}
