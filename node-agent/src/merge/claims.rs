//! Which service a frontend belongs to where several want it: the first by name, in whatever order they came.

use std::collections::HashMap;

use mesh_model::desired::Frontend;
use mesh_model::name::ServiceName;

/// The frontends that each service wants, and the services that want each frontend.
#[derive(Debug, Default)]
pub(super) struct Claims {
    wanted: HashMap<ServiceName, Vec<Frontend>>,
    /// Sorted; never empty.
    claimants: HashMap<Frontend, Vec<ServiceName>>,
    /// Claims that are not the first of their frontend.
    contested: usize,
}

/// The fate of a frontend that a service no longer wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Nobody wants it.
    Nobody(Frontend),
    /// It belongs to another service from now on.
    To(ServiceName),
}

impl Claims {
    pub(super) fn knows(&self, service: &ServiceName) -> bool {
        self.wanted.contains_key(service)
    }

    pub(super) fn owner(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.claimants.get(frontend)?.first()
    }

    /// How many claims lead to nothing, because the frontend is another service's.
    pub(super) fn contested(&self) -> usize {
        self.contested
    }

    /// The service wants exactly these frontends now.
    pub(super) fn update(&mut self, service: &ServiceName, wanted: Vec<Frontend>) -> Vec<GivenUp> {
        let before = self.wanted.remove(service).unwrap_or_default();
        for frontend in &wanted {
            let claimants = self.claimants.entry(*frontend).or_default();
            if let Err(place) = claimants.binary_search(service) {
                self.contested += usize::from(!claimants.is_empty());
                claimants.insert(place, service.clone());
            }
        }
        let gone = before.into_iter().filter(|frontend| !wanted.contains(frontend));
        let given_up = gone.filter_map(|frontend| self.give_up(service, frontend)).collect();
        if !wanted.is_empty() {
            self.wanted.insert(service.clone(), wanted);
        }
        given_up
    }

    fn give_up(&mut self, service: &ServiceName, frontend: Frontend) -> Option<GivenUp> {
        let claimants = self.claimants.get_mut(&frontend)?;
        let place = claimants.binary_search(service).ok()?;
        claimants.remove(place);
        self.contested -= usize::from(!claimants.is_empty());
        match claimants.first() {
            None => {
                self.claimants.remove(&frontend);
                Some(GivenUp::Nobody(frontend))
            }
            Some(next) if place == 0 => Some(GivenUp::To(next.clone())),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_model::snapshot::Protocol;

    use super::*;

    #[test]
    fn the_first_by_name_owns_a_contested_frontend() {
        let [a, b]: [ServiceName; 2] = ["ns/a", "ns/b"].map(|name| name.parse().unwrap());
        let frontend = Frontend { address: "10.0.0.1".parse().unwrap(), port: 80, protocol: Protocol::Tcp };
        let mut claims = Claims::default();
        assert!(claims.update(&b, vec![frontend]).is_empty());
        assert_eq!(claims.owner(&frontend), Some(&b));
        assert!(claims.update(&a, vec![frontend]).is_empty());
        assert_eq!(claims.owner(&frontend), Some(&a));
        assert_eq!(claims.contested(), 1, "whoever of the two came first");
        assert_eq!(claims.update(&a, vec![]), [GivenUp::To(b.clone())]);
        assert_eq!(claims.update(&b, vec![]), [GivenUp::Nobody(frontend)]);
        assert_eq!((claims.owner(&frontend), claims.contested()), (None, 0));
        assert!(!claims.knows(&b));
    }
}
