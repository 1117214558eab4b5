//! CRLs, which key signed each, and which of them speak of a path.

use std::collections::HashMap;
use std::sync::OnceLock;

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList, VerifiedPath};

use super::anchors::Anchors;
use super::identity::{RevocationList, SignedCrl};
use super::revocation::SIGNATURE_ALGORITHMS;
use super::summary::name_digest;
use crate::limits::CRL_OTHER_KEYS_MAX;

/// A CRL as it is looked up, and what it says of itself.
#[derive(Debug)]
pub(super) struct Crl {
    pub list: CertRevocationList<'static>,
    pub about: RevocationList,
    /// What its signature is over. Kept only where its signer is not known from the start.
    signed: Option<SignedCrl>,
    /// [`name_digest`] of the key that its signature is known to be by. It has but one, and a large
    /// CRL takes milliseconds to hash.
    signer: OnceLock<[u8; 32]>,
    /// Those of keys that its signature is known not to be by: the clients of a CA that changed its
    /// key are judged one after the other.
    others: [OnceLock<[u8; 32]>; CRL_OTHER_KEYS_MAX],
}

impl Crl {
    pub fn read(der: &CertificateRevocationListDer<'_>) -> Result<Self, String> {
        let about = RevocationList::from_der(der)
            .map_err(|error| format!(": {error}; replace it by what its CA published"))?;
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| {
            format!(
                " of `{}` is malformed or of a kind that is not supported ({error})",
                about.issuer
            )
        })?;
        Ok(Self {
            list: list.into(),
            about,
            signed: None,
            signer: OnceLock::new(),
            others: [const { OnceLock::new() }; CRL_OTHER_KEYS_MAX],
        })
    }

    /// The digest of the SubjectPublicKeyInfo's DER of the key that signed, once that is known.
    pub fn signer(&self) -> Option<&[u8; 32]> {
        self.signer.get()
    }

    /// Keeps what a signature that was verified says: that the key with this digest signed.
    pub fn remember_signer(&self, key: [u8; 32]) {
        // Another thread can only have found the same.
        let _ = self.signer.set(key);
    }

    /// Whether the key with this digest signed, as far as that is known.
    pub fn is_known_by(&self, key: &[u8; 32]) -> Option<bool> {
        match self.signer.get() {
            Some(signer) => Some(signer == key),
            None if self.others.iter().any(|other| other.get() == Some(key)) => Some(false),
            None => None,
        }
    }

    /// Takes over what `before` knows of who signed, which is the same CRL.
    fn learn_from(&self, before: &Self) {
        if let Some(signer) = before.signer() {
            self.remember_signer(*signer);
        }
        let others = before.others.iter().filter_map(OnceLock::get);
        others.for_each(|key| self.remember_other(key));
    }

    /// Keeps that the key with this digest did not sign. Where there is no room it is found out
    /// again.
    fn remember_other(&self, key: &[u8; 32]) {
        if self.is_known_by(key).is_none() {
            let _ = self.others.iter().find(|other| other.set(*key).is_ok());
        }
    }

    /// Whether the key of `issuer` signed this CRL.
    pub fn is_signed_by(&self, issuer: &EndEntityCert<'_>) -> bool {
        let key = name_digest(&issuer.subject_public_key_info());
        if let Some(known) = self.is_known_by(&key) {
            return known;
        }
        let Some(signed) = &self.signed else {
            return false;
        };
        let mut algorithms = SIGNATURE_ALGORITHMS.iter();
        let fits = algorithms.any(|&algorithm| {
            algorithm.signature_alg_id().as_ref() == signed.algorithm
                && issuer
                    .verify_signature(algorithm, &signed.content, &signed.signature)
                    .is_ok()
        });
        if fits {
            self.remember_signer(key);
        } else {
            self.remember_other(&key);
        }
        fits
    }
}

/// The CRLs of a trust domain.
#[derive(Debug)]
pub(super) struct Crls {
    /// The newest first: webpki asks the first one that is from an issuer of the right name.
    pub all: Vec<Crl>,
    /// By [`name_digest`] of the issuer, the newest CRL of each of its series.
    newest: HashMap<[u8; 32], Vec<usize>>,
    /// Whether CAs with the same name, but each with its own key, have CRLs here, as while a CA
    /// changes its key: then the name does not tell whose CRL it is.
    pub has_namesakes: bool,
}

impl Crls {
    /// Of CRLs, each with the DER that it was read from. Finds out which of them `anchors` signed,
    /// which takes milliseconds for a large one.
    pub fn new(
        mut read: Vec<(CertificateRevocationListDer<'static>, Crl)>,
        anchors: &Anchors,
    ) -> Self {
        read.sort_by(|(a_der, a), (b_der, b)| {
            let newest_first = b.about.version().cmp(&a.about.version());
            newest_first.then_with(|| a_der.as_ref().cmp(b_der.as_ref()))
        });
        let mut keys: HashMap<&[u8], &Option<Vec<u8>>> = HashMap::new();
        let has_namesakes = read.iter().any(|(_, crl)| {
            let key = &crl.about.series.authority_key;
            *keys.entry(crl.list.issuer()).or_insert(key) != key
        });
        let anchors = anchors.groups().flat_map(|group| &group.certificates);
        // Those of version 1 are none here. Their keys are known once webpki has verified with them.
        let anchors = anchors.filter_map(|der| EndEntityCert::try_from(der).ok());
        let anchors: Vec<_> = anchors.collect();
        let all = read.into_iter().map(|(der, mut crl)| {
            crl.signed = SignedCrl::from_der(&der);
            let mut named = anchors
                .iter()
                .filter(|anchor| anchor.subject() == crl.list.issuer());
            let is_known = named.any(|anchor| crl.is_signed_by(anchor));
            if is_known {
                crl.signed = None;
            }
            crl
        });
        let all: Vec<_> = all.collect();
        let mut newest: HashMap<_, Vec<usize>> = HashMap::new();
        for (at, crl) in all.iter().enumerate() {
            let of_issuer = newest.entry(name_digest(crl.list.issuer())).or_default();
            let replaced = |&known: &usize| all[known].about.series == crl.about.series;
            if !of_issuer.iter().any(replaced) {
                of_issuer.push(at);
            }
        }
        Self {
            all,
            newest,
            has_namesakes,
        }
    }

    /// How many there are whose signer is not known: the first client below it has the signature
    /// verified.
    pub fn unknown_signers(&self) -> usize {
        let unknown = self.all.iter().filter(|crl| crl.signer().is_none());
        unknown.count()
    }

    /// Takes over what `before` knows of who signed the CRLs that both have. It may take milliseconds
    /// to compare large ones.
    pub fn carry_signers<'a>(
        before: impl Iterator<Item = &'a Self>,
        now: impl Iterator<Item = &'a Self>,
    ) {
        let before = before.flat_map(|crls| &crls.all);
        let before = before.filter_map(|crl| Some((crl.signed.as_ref()?, crl)));
        // The same CRL of another route may know more.
        let mut known: HashMap<&SignedCrl, Vec<&Crl>> = HashMap::new();
        for (signed, crl) in before {
            known.entry(signed).or_default().push(crl);
        }
        for crl in now.flat_map(|crls| &crls.all) {
            let same = crl.signed.as_ref().and_then(|signed| known.get(signed));
            same.into_iter().flatten().for_each(|it| crl.learn_from(it));
        }
    }

    /// The newest CRL of each series of an issuer, by [`name_digest`] of its name.
    pub fn of(&self, issuer: &[u8; 32]) -> impl Iterator<Item = &Crl> {
        let newest = self.newest.get(issuer);
        newest.into_iter().flatten().map(|&at| &self.all[at])
    }

    /// All but those of namesakes of the CAs of `path`: CRLs with the name of one of them that were
    /// not signed by its key, where another one was. One that says it is of the same key stays
    /// though its signature is not good, and so do all where none is: then the check is to end with
    /// an error.
    pub fn speaking_of(
        &self,
        path: &VerifiedPath<'_>,
        anchor: &CertificateDer<'_>,
    ) -> Vec<&CertRevocationList<'static>> {
        let ders = path.intermediate_certificates().map(|ca| ca.der());
        let ders: Vec<CertificateDer<'_>> = ders.chain([anchor.clone()]).collect();
        let cas = ders
            .iter()
            .filter_map(|der| EndEntityCert::try_from(der).ok());
        let cas: Vec<_> = cas.collect();
        let is_own = |crl: &&Crl| {
            let mut named = cas.iter().filter(|ca| ca.subject() == crl.list.issuer());
            named.any(|ca| crl.is_signed_by(ca))
        };
        let own: Vec<&Crl> = self.all.iter().filter(is_own).collect();
        let speaks = |crl: &&Crl| {
            let mut known = own
                .iter()
                .filter(|own| own.list.issuer() == crl.list.issuer());
            let key = |crl: &Crl| crl.about.series.authority_key.clone();
            let of_namesake = known.clone().next().is_some();
            !of_namesake || known.any(|own| key(own) == key(crl))
        };
        self.all
            .iter()
            .filter(speaks)
            .map(|crl| &crl.list)
            .collect()
    }
}
