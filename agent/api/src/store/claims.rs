//! Writes of claims: the create decides which endpoint gets an address, compare-and-swap which one keeps it.

use std::net::IpAddr;

use holdfast_core::id::PodName;
use jiff::Timestamp;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use super::{
    client::{ATTEMPTS, Store},
    error::StoreError,
};
use crate::{
    claim::{ClaimState, IPClaim, name_of},
    labels::{POOL_LABEL, label_value},
};

/// The outcome of [`Store::acquire`].
#[derive(Debug)]
pub enum AcquireOutcome {
    /// The endpoint has the address.
    Acquired,
    /// Another endpoint has the address: `namespace/name`.
    HeldBy(String),
}

/// The outcome of [`Store::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifyOutcome {
    /// The address is the endpoint's.
    Held,
    /// The claim was deleted meanwhile. A sticky ADD may create it again; a first ADD starts over.
    Gone,
    /// Another endpoint has the address: `namespace/name`.
    Lost(String),
}

/// The outcome of [`Store::finish_release`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The claim is deleted, the address free.
    Deleted,
    /// The endpoint lists the address again: the claim is held again.
    Unmarked,
    /// Another writer changed the claim first; nothing was done.
    Changed,
}

impl Store {
    /// Returns the claim of an address.
    pub async fn claim(&self, address: IpAddr) -> Result<Option<IPClaim>, StoreError> {
        let read = self.all::<IPClaim>().get_opt(&name_of(address)).await;
        read.map_err(|error| StoreError::new("read", format!("the claim of {address}"), error))
    }

    /// Returns all claims of a pool. The cost grows with the number of claims: only for a pool that seems exhausted.
    pub async fn pool_claims(&self, pool: &str) -> Result<Vec<IPClaim>, StoreError> {
        let params = ListParams::default().labels(&format!("{POOL_LABEL}={}", label_value(pool)));
        let list = self.all::<IPClaim>().list(&params).await;
        let list = list.map_err(|error| StoreError::new("list", format!("the claims of pool {pool}"), error))?;
        Ok(list.items.into_iter().filter(|claim| claim.spec.pool == pool).collect())
    }

    /// Acquires an address for an endpoint. A claim that the endpoint already has (a crash left it, or it is released) is
    /// acquired by compare-and-swap, never just used.
    pub async fn acquire(&self, address: IpAddr, pool: &str, endpoint: &PodName) -> Result<AcquireOutcome, StoreError> {
        for _ in 0..ATTEMPTS {
            match self.create_claim(address, pool, endpoint).await {
                Ok(()) => return Ok(AcquireOutcome::Acquired),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
            match self.claim(address).await? {
                Some(claim) if claim.belongs_to(endpoint) => {
                    match self.compare_and_swap(&claim, ClaimState::Held).await {
                        Ok(()) => return Ok(AcquireOutcome::Acquired),
                        Err(error) if error.is_conflict() => {}
                        Err(error) => return Err(error),
                    }
                }
                Some(claim) => return Ok(AcquireOutcome::HeldBy(claim.spec.endpoint)),
                None => {}
            }
        }
        Err(StoreError::Conflict { what: format!("the claim of {address}") })
    }

    /// Creates the claim of an address. Fails with a conflict where there is one.
    pub async fn create_claim(&self, address: IpAddr, pool: &str, endpoint: &PodName) -> Result<(), StoreError> {
        self.check_gate(|| format!("the claim of {address}"))?;
        let created =
            self.all::<IPClaim>().create(&PostParams::default(), &IPClaim::held(address, pool, endpoint)).await;
        created.map(drop).map_err(|error| StoreError::new("create", format!("the claim of {address}"), error))
    }

    /// Reads a claim again, now that the endpoint lists its address. One that is marked as released is held again.
    pub async fn verify(&self, address: IpAddr, endpoint: &PodName) -> Result<VerifyOutcome, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(claim) = self.claim(address).await? else { return Ok(VerifyOutcome::Gone) };
            if !claim.belongs_to(endpoint) {
                return Ok(VerifyOutcome::Lost(claim.spec.endpoint));
            }
            if claim.spec.state == ClaimState::Held {
                return Ok(VerifyOutcome::Held);
            }
            match self.compare_and_swap(&claim, ClaimState::Held).await {
                Err(error) if !error.is_conflict() => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Err(StoreError::Conflict { what: format!("the claim of {address}") })
    }

    /// Marks the claim of an address that its endpoint no longer lists as released. Returns false, having done nothing,
    /// where the endpoint lists the address again. The claim is read before the endpoint, so that the mark fails if the
    /// claim was acquired in between.
    pub async fn mark_released(&self, address: IpAddr, endpoint: &PodName) -> Result<bool, StoreError> {
        let Some(claim) = self.claim(address).await?.filter(|claim| claim.belongs_to(endpoint)) else {
            return Ok(false);
        };
        if claim.spec.state == ClaimState::Released {
            return Ok(false);
        }
        if self.endpoint(endpoint).await?.is_some_and(|listing| listing.lists(address)) {
            return Ok(false);
        }
        match self.compare_and_swap(&claim, ClaimState::Released).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The same for a claim that was read before. If it changed since, it is read again.
    pub async fn mark_claim_released(&self, claim: &IPClaim, endpoint: &PodName) -> Result<bool, StoreError> {
        let address = claim.spec.address;
        if claim.spec.state == ClaimState::Held && claim.belongs_to(endpoint) {
            if self.endpoint(endpoint).await?.is_some_and(|listing| listing.lists(address)) {
                return Ok(false);
            }
            match self.compare_and_swap(claim, ClaimState::Released).await {
                Ok(()) => return Ok(true),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        self.mark_released(address, endpoint).await
    }

    /// Ends the cooldown of a marked claim. The endpoint is read after the mark: if it lists the address again, the mark is
    /// removed; else the claim is deleted at the version of the mark, or not at all.
    pub async fn finish_release(&self, claim: &IPClaim) -> Result<ReleaseOutcome, StoreError> {
        let address = claim.spec.address;
        if let Some(endpoint) = claim.endpoint()
            && self.endpoint(&endpoint).await?.is_some_and(|endpoint| endpoint.lists(address))
        {
            return match self.compare_and_swap(claim, ClaimState::Held).await {
                Ok(()) => Ok(ReleaseOutcome::Unmarked),
                Err(error) if error.is_conflict() => Ok(ReleaseOutcome::Changed),
                Err(error) => Err(error),
            };
        }
        self.delete_claim(claim).await
    }

    /// Deletes a claim at the version that was read, or not at all. Only for one whose cooldown is over, or that locks no
    /// address.
    pub async fn delete_claim(&self, claim: &IPClaim) -> Result<ReleaseOutcome, StoreError> {
        let address = claim.spec.address;
        self.check_gate(|| format!("the claim of {address}"))?;
        let preconditions = Preconditions { uid: claim.uid(), resource_version: claim.resource_version() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.all::<IPClaim>().delete(&claim.name_any(), &params).await {
            Ok(_) => Ok(ReleaseOutcome::Deleted),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(ReleaseOutcome::Changed),
            Err(error) => Err(StoreError::new("delete", format!("the claim of {address}"), error)),
        }
    }

    async fn compare_and_swap(&self, claim: &IPClaim, state: ClaimState) -> Result<(), StoreError> {
        let what = || format!("the claim of {}", claim.spec.address);
        self.check_gate(what)?;
        let mut next = claim.clone();
        next.spec.state = state;
        next.spec.released_at = (state == ClaimState::Released).then(Timestamp::now);
        let replaced = self.all::<IPClaim>().replace(&claim.name_any(), &PostParams::default(), &next).await;
        replaced.map(drop).map_err(|error| StoreError::of_replace(what(), error))
    }
}
