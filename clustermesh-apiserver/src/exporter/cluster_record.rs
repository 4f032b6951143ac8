//! Whether what stands in etcd is ours to change, and which cluster record shall stand there.

use mesh_kv::publish::StoredRecords;
use mesh_kv::{Entry, EtcdEndpoint};
use mesh_model::export::Identity;
use mesh_model::record::{self, ClusterRecord, Incarnation, Reason, Record};

use super::fault::ExportError;
use super::random;

/// Refuses an etcd that belongs to another cluster. Otherwise the own cluster record as it shall stand: with the
/// incarnation that stands already, or a new one.
pub(super) fn cluster_record(
    identity: &Identity,
    endpoint: &EtcdEndpoint,
    stored: &StoredRecords,
) -> Result<ClusterRecord, ExportError> {
    if !stored.others.is_empty() {
        let (endpoint, own) = (endpoint.to_string(), identity.name.clone());
        return Err(ExportError::ForeignStore { endpoint, own, others: stored.others.clone() });
    }
    let incarnation = match &stored.cluster {
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
    endpoint: &EtcdEndpoint,
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
    use super::super::testing::identity;
    use super::*;

    fn stored(value: &str) -> StoredRecords {
        let entry = Entry {
            key: "clustermesh/v1/clusters/hoth".into(),
            value: value.into(),
            mod_revision: 1,
            create_revision: 1,
            lease: 0,
        };
        StoredRecords { cluster: Some(entry), ..StoredRecords::default() }
    }

    fn judge(stored: &StoredRecords) -> Result<ClusterRecord, String> {
        let endpoint = "http://127.0.0.1:1".parse().unwrap();
        cluster_record(&identity("hoth", 2), &endpoint, stored).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_store_gets_a_new_incarnation_and_a_known_one_keeps_its_own() {
        let first = judge(&StoredRecords::default()).unwrap();
        assert_ne!(first.incarnation, judge(&StoredRecords::default()).unwrap().incarnation);
        let known = judge(&stored(r#"{"id":2,"incarnation":"one"}"#)).unwrap();
        assert_eq!(known.incarnation.as_str(), "one");
        assert_eq!(known.ranges.pods.len(), 1);
    }

    #[test]
    fn a_store_of_another_cluster_is_refused_with_the_remedy() {
        let others = StoredRecords { others: vec!["endor".into()], ..StoredRecords::default() };
        let command = |name| format!("forget --cluster-name {name} --etcd-endpoint http://127.0.0.1:1");
        let (of_endor, of_hoth) = (command("endor"), command("hoth"));
        for (stored, parts) in [
            (others, ["records of endor", "--etcd-endpoint", &of_endor]),
            (stored(r#"{"id":3,"incarnation":"one"}"#), ["has the id 3, not 2", "--cluster-id 3", &of_hoth]),
            (stored(r#"{"schema":9}"#), ["another version", "newer", "clustermesh-apiserver"]),
        ] {
            let error = judge(&stored).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn a_garbage_record_is_replaced() {
        for value in ["", "not JSON", r#"{"id":2}"#, r#"{"id":0,"incarnation":"one"}"#] {
            assert_ne!(judge(&stored(value)).unwrap().incarnation.as_str(), "one", "{value}");
        }
    }
}
