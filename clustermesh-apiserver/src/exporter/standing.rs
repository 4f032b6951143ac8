//! Whether what stands in etcd is ours to change, and which cluster record shall stand there.

use mesh_kv::publish::Standing;
use mesh_kv::{Endpoint, Entry};
use mesh_model::export::Identity;
use mesh_model::record::{self, ClusterRecord, Incarnation, Reason, Record};

use super::fault::ExportError;
use super::random;

/// Refuses an etcd that belongs to another cluster. Otherwise the own cluster record as it shall stand: with the
/// incarnation that stands already, or a new one.
pub(super) fn cluster_record(
    identity: &Identity,
    endpoint: &Endpoint,
    standing: &Standing,
) -> Result<ClusterRecord, ExportError> {
    if !standing.others.is_empty() {
        let (endpoint, own) = (endpoint.to_string(), identity.name.clone());
        return Err(ExportError::ForeignStore { endpoint, own, others: standing.others.clone() });
    }
    let incarnation = match &standing.cluster {
        Some(entry) => incarnation_of(identity, endpoint, entry)?,
        None => None,
    };
    Ok(ClusterRecord {
        id: identity.id,
        incarnation: incarnation.unwrap_or_else(new_incarnation),
        ranges: identity.ranges.exported(),
        capabilities: Default::default(),
    })
}

/// The incarnation that stands; none where the record is garbage, which is replaced.
fn incarnation_of(
    identity: &Identity,
    endpoint: &Endpoint,
    entry: &Entry,
) -> Result<Option<Incarnation>, ExportError> {
    let own = identity.name.clone();
    match record::parse(&entry.key, &entry.value) {
        Ok((_, Record::Cluster(found))) if found.id == identity.id => Ok(Some(found.incarnation)),
        Ok((_, Record::Cluster(found))) => {
            let (endpoint, id) = (endpoint.to_string(), identity.id);
            Err(ExportError::OtherId { endpoint, own, id, found: found.id })
        }
        Err(rejection) if rejection.fault.reason() == Reason::Schema => {
            let (endpoint, detail) = (endpoint.to_string(), rejection.fault.to_string());
            Err(ExportError::OtherSchema { endpoint, own, detail })
        }
        Ok(_) => Ok(None),
        Err(rejection) => {
            tracing::warn!(key = entry.key, error = %rejection.fault, "replacing an invalid cluster record");
            Ok(None)
        }
    }
}

fn new_incarnation() -> Incarnation {
    let text: String = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect();
    Incarnation::new(&text).expect("32 hexadecimal digits are an incarnation")
}

#[cfg(test)]
mod tests {
    use mesh_model::fence::OwnRanges;
    use mesh_model::name::{ClusterId, ClusterName};

    use super::*;

    fn identity() -> Identity {
        Identity {
            name: ClusterName::new("hoth").unwrap(),
            id: ClusterId::new(2).unwrap(),
            ranges: OwnRanges { pods: vec!["10.2.0.0/16".parse().unwrap()], ..OwnRanges::default() },
        }
    }

    fn standing(value: &str) -> Standing {
        let entry = Entry {
            key: "clustermesh/v1/clusters/hoth".into(),
            value: value.into(),
            mod_revision: 1,
            create_revision: 1,
            lease: 0,
        };
        Standing { cluster: Some(entry), ..Standing::default() }
    }

    fn judge(standing: &Standing) -> Result<ClusterRecord, String> {
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        cluster_record(&identity(), &endpoint, standing).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_store_gets_a_new_incarnation_and_a_known_one_keeps_its_own() {
        let first = judge(&Standing::default()).unwrap();
        assert_ne!(first.incarnation, judge(&Standing::default()).unwrap().incarnation);
        let known = judge(&standing(r#"{"id":2,"incarnation":"one"}"#)).unwrap();
        assert_eq!(known.incarnation.as_str(), "one");
        assert_eq!(known.ranges.pods.len(), 1);
    }

    #[test]
    fn a_store_of_another_cluster_is_refused_with_the_remedy() {
        let others = Standing { others: vec!["endor".into()], ..Standing::default() };
        let command = |name| format!("forget --cluster-name {name} --etcd-endpoint http://127.0.0.1:1");
        let (of_endor, of_hoth) = (command("endor"), command("hoth"));
        for (standing, parts) in [
            (others, ["records of endor", "--etcd-endpoint", &of_endor]),
            (
                standing(r#"{"id":3,"incarnation":"one"}"#),
                ["has the id 3, not 2", "--cluster-id 3", &of_hoth],
            ),
            (standing(r#"{"schema":9}"#), ["another version", "newer", "clustermesh-apiserver"]),
        ] {
            let error = judge(&standing).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_garbage_record_is_replaced() {
        for value in ["", "not JSON", r#"{"id":2}"#, r#"{"id":0,"incarnation":"one"}"#] {
            assert_ne!(judge(&standing(value)).unwrap().incarnation.as_str(), "one", "{value}");
        }
    }
}
