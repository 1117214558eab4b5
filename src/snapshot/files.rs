//! The files that a configuration names: read once, checked, each error with its remedy.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::{
    BundleFiles, CertificateFiles, ConfigError, FileReferences, FileSetting, RouteConfig,
};
use crate::limits::PEM_BYTES_MAX;
use crate::tls::{self, ServerCertificate};
use crate::trust::domain::{Bundle, TrustDomain, TrustSources};
use crate::trust::identity::Identity;
use crate::trust::spiffe::TrustDomainName;
use crate::trust::stek::Secret;

use super::crls::{self, LoadedCrl};
use super::expiry::{Expiries, Expiry, ExpiryKind};

/// What the first line of every private key in PEM form ends with.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// What is wrong with a file, and the remedy.
pub(super) type Problem = (String, String);

/// Permission bits that let group or others read or change a file.
const GROUP_AND_OTHERS: u32 = 0o066;

/// That lets the group read it.
const GROUP_READS: u32 = 0o040;

/// Files read so far, and what was wrong with them.
pub(super) struct Files<'a> {
    clock: &'a Clock,
    certified_keys: HashMap<(PathBuf, PathBuf), Option<ServerCertificate>>,
    anchors: HashMap<PathBuf, Option<Vec<CertificateDer<'static>>>>,
    crls: HashMap<PathBuf, Option<Arc<[LoadedCrl]>>>,
    errors: Vec<ConfigError>,
    warnings: Vec<ConfigError>,
    expiries: Expiries,
}

impl<'a> Files<'a> {
    pub(super) fn new(clock: &'a Clock) -> Self {
        Self {
            clock,
            certified_keys: HashMap::new(),
            anchors: HashMap::new(),
            crls: HashMap::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
            expiries: Expiries::default(),
        }
    }

    pub(super) fn report(&mut self, error: ConfigError) {
        // Several routes may fall back to the same setting of their listener.
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    pub(super) fn warn(&mut self, warning: ConfigError) {
        self.warnings.push(warning);
    }

    /// Errors and warnings.
    pub(super) fn into_findings(mut self) -> (Vec<ConfigError>, Vec<ConfigError>) {
        self.warnings.extend(self.expiries.warnings(self.now()));
        (self.errors, self.warnings)
    }

    /// Until when each of the certificates and CRLs counts that were noted; the first to expire
    /// first.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        self.expiries.sorted()
    }

    /// Notes until when what `route` names counts.
    pub(super) fn note_expiries(&mut self, route: &RouteConfig) {
        for pair in &route.certificates {
            if let Some(loaded) = self.certified_key(pair) {
                let (kind, file) = (ExpiryKind::ServerCertificate, &pair.certificate);
                self.expiries.note_certificates(kind, file, &loaded.cert);
            }
        }
        let bundles = route.bundles.iter().flat_map(|bundle| &bundle.files);
        for file in route.client_ca.iter().chain(bundles) {
            if let Some(anchors) = self.anchors(file) {
                let kind = ExpiryKind::TrustAnchor;
                self.expiries.note_certificates(kind, file, &anchors);
            }
        }
        let sources = route.crls.iter();
        let crls: Vec<_> = sources
            .filter_map(|source| Some((source, self.crls(source)?)))
            .collect();
        self.expiries.note_crls(&crls);
    }

    /// Reads and checks each of `references`.
    pub(super) fn check(&mut self, references: &FileReferences) {
        for pair in &references.certificates {
            self.certified_key(pair);
        }
        for file in &references.client_ca {
            self.anchors(file);
        }
        for bundle in &references.bundles {
            self.bundle(bundle);
        }
        for file in &references.crls {
            self.crls(file);
        }
        for file in &references.steks {
            self.secret(file);
        }
    }

    /// A certificate chain and its key; `None` when something is wrong, which is then reported.
    pub(super) fn certified_key(&mut self, pair: &CertificateFiles) -> Option<ServerCertificate> {
        let paths = (pair.certificate.path.clone(), pair.key.path.clone());
        if let Some(known) = self.certified_keys.get(&paths) {
            return known.clone();
        }
        let loaded = self.load_certified_key(pair);
        self.certified_keys.insert(paths, loaded.clone());
        loaded
    }

    fn load_certified_key(&mut self, pair: &CertificateFiles) -> Option<ServerCertificate> {
        let chain = self.read(&pair.certificate, Secrecy::Public);
        let key = self.read(&pair.key, Secrecy::OwnerOnly);
        let chain = chain.filter(|chain| self.check_chain(&pair.certificate, chain))?;
        let key = key.filter(|key| self.check_key_form(&pair.key, key))?;
        match tls::load_certified_key(&chain, &key) {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                let (certificate, key) = (&pair.certificate.path, &pair.key.path);
                self.report(pair.key.place.error(
                    format!(
                        "{} and {} do not fit: {error}",
                        key.display(),
                        certificate.display()
                    ),
                    format!(
                        "name the key of the first certificate in {}; these two must print the \
                         same: openssl x509 -in {0} -noout -pubkey; openssl pkey -in {} -pubout",
                        certificate.display(),
                        key.display()
                    ),
                ));
                None
            }
        }
    }

    /// Whether `pem` holds a chain; warns when its leaf is not valid yet.
    fn check_chain(&mut self, file: &FileSetting, pem: &[u8]) -> bool {
        let Some(chain) = self.certificates(file, pem) else {
            return false;
        };
        let Some(leaf) = chain.first().and_then(|leaf| Identity::from_der(leaf).ok()) else {
            return false;
        };
        let now = self.now();
        if leaf.not_before > now {
            let problem = format!(
                "the certificate of {} in {} is not valid yet: clients will refuse it",
                leaf.subject,
                shown(file)
            );
            let remedy = "replace it, or set this host's clock";
            self.warnings.push(file.place.error(problem, remedy));
        }
        true
    }

    fn check_key_form(&mut self, file: &FileSetting, pem: &[u8]) -> bool {
        let holds = |label: &[u8]| pem.windows(label.len()).any(|window| window == label);
        let path = shown(file);
        if holds(b"ENCRYPTED") {
            self.report(file.place.error(
                format!("the key in {path} is encrypted"),
                format!("decrypt it into a file of mode 0600: openssl pkey -in {path} -out NEW"),
            ));
            return false;
        }
        if !holds(PRIVATE_KEY) {
            self.report(file.place.error(
                format!("{path} holds no PEM block PRIVATE KEY"),
                "name a file of a PKCS #8, SEC1 or PKCS #1 private key in PEM form",
            ));
            return false;
        }
        true
    }

    /// The trust anchors in a file; `None` when something is wrong, which is then reported.
    pub(super) fn anchors(&mut self, file: &FileSetting) -> Option<Vec<CertificateDer<'static>>> {
        if let Some(known) = self.anchors.get(&file.path) {
            return known.clone();
        }
        let pem = self.read(file, Secrecy::Public);
        let anchors = pem.and_then(|pem| self.certificates(file, &pem));
        let anchors = anchors.filter(|anchors| self.check_anchors(file, anchors));
        self.anchors.insert(file.path.clone(), anchors.clone());
        anchors
    }

    /// The authorities of a SPIFFE trust domain; `None` when something is wrong, which is then
    /// reported.
    pub(super) fn bundle(&mut self, bundle: &BundleFiles) -> Option<Bundle> {
        let mut all = Some(Vec::new());
        for file in &bundle.files {
            let anchors = self
                .anchors(file)
                .filter(|anchors| self.check_bundle(file, &bundle.trust_domain, anchors));
            all = all.zip(anchors).map(|(mut all, anchors)| {
                all.extend(anchors);
                all
            });
        }
        Some(Bundle {
            trust_domain: bundle.trust_domain.clone(),
            anchors: all?,
        })
    }

    /// Whether these can be a trust domain's. Asked file by file, so that the error names the file.
    fn check_bundle(
        &mut self,
        file: &FileSetting,
        trust_domain: &TrustDomainName,
        anchors: &[CertificateDer<'static>],
    ) -> bool {
        let bundle = Bundle {
            trust_domain: trust_domain.clone(),
            anchors: anchors.to_vec(),
        };
        let sources = TrustSources {
            name: shown(file),
            bundles: vec![bundle],
            ..TrustSources::default()
        };
        let checked = TrustDomain::new(sources);
        if let Err(error) = &checked {
            let remedy = "name a file with the CAs of this trust domain only";
            self.report(file.place.error(error.to_string(), remedy));
        }
        checked.is_ok()
    }

    /// The CRLs in a file or a directory; `None` when something is wrong, which is then reported.
    pub(super) fn crls(&mut self, source: &FileSetting) -> Option<Arc<[LoadedCrl]>> {
        if let Some(known) = self.crls.get(&source.path) {
            return known.clone();
        }
        let loaded = match crls::load(&source.path) {
            Ok(loaded) => Some(loaded.into()),
            Err((problem, remedy)) => {
                self.report(source.place.error(problem, remedy));
                None
            }
        };
        self.crls.insert(source.path.clone(), loaded.clone());
        loaded
    }

    /// The secret for ticket keys in a file; `None` when something is wrong, which is then reported.
    pub(super) fn secret(&mut self, file: &FileSetting) -> Option<Arc<Secret>> {
        let content = self.read(file, Secrecy::OwnerOnly)?;
        match Secret::new(&content) {
            Ok(secret) => Some(Arc::new(secret)),
            Err(error) => {
                let path = shown(file);
                let remedy = format!("make a new one: rm {path}; ringgate stek new {path}");
                self.report(file.place.error(format!("{path} {error}"), remedy));
                None
            }
        }
    }

    /// Whether these can be anchors. Asked file by file, so that the error names the file.
    fn check_anchors(&mut self, file: &FileSetting, anchors: &[CertificateDer<'static>]) -> bool {
        let sources = TrustSources {
            name: shown(file),
            anchors: anchors.to_vec(),
            ..TrustSources::default()
        };
        match TrustDomain::new(sources) {
            Ok(domain) => {
                for warning in domain.warnings() {
                    let remedy = "use anchors without them, or clients without URI SANs";
                    self.warnings.push(file.place.error(warning, remedy));
                }
                true
            }
            Err(error) => {
                let remedy = "name a file of CA certificates only";
                self.report(file.place.error(error.to_string(), remedy));
                false
            }
        }
    }

    /// Seconds since the Unix epoch, as certificates count.
    fn now(&self) -> i64 {
        i64::try_from(self.clock.unix().as_secs()).unwrap_or(i64::MAX)
    }

    /// The certificates of a PEM file, of which there must be one and all must be readable.
    fn certificates(
        &mut self,
        file: &FileSetting,
        pem: &[u8],
    ) -> Option<Vec<CertificateDer<'static>>> {
        let certificates: Vec<CertificateDer<'static>> =
            match pem_blocks(&shown(file), pem, &CERTIFICATE) {
                Ok(certificates) => certificates,
                Err((problem, remedy)) => {
                    self.report(file.place.error(problem, remedy));
                    return None;
                }
            };
        for (at, certificate) in certificates.iter().enumerate() {
            if let Err(error) = Identity::from_der(certificate) {
                let problem = format!("certificate {} in {}: {error}", at + 1, shown(file));
                self.report(
                    file.place
                        .error(problem, "replace the file by an undamaged one"),
                );
                return None;
            }
        }
        Some(certificates)
    }

    /// The bytes of a file; `None` when it cannot or must not be used, which is then reported.
    fn read(&mut self, file: &FileSetting, secrecy: Secrecy) -> Option<Zeroizing<Vec<u8>>> {
        match read(&file.path, secrecy) {
            Ok(bytes) => Some(bytes),
            Err((problem, remedy)) => {
                self.report(file.place.error(problem, remedy));
                None
            }
        }
    }
}

/// The certificates of a PEM file, as a client would present them: the leaf first.
///
/// # Errors
///
/// The problem and its remedy, for people.
pub fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display().to_string();
    let chain = read(path, Secrecy::Public).and_then(|pem| {
        pem_blocks(&shown, &pem, &CERTIFICATE).map_err(|(problem, remedy)| {
            let holds_key = pem
                .windows(PRIVATE_KEY.len())
                .any(|window| window == PRIVATE_KEY);
            match holds_key {
                true => (
                    format!("{shown} holds a private key and no certificate"),
                    "name the file of the certificate; the key is not needed here".to_owned(),
                ),
                false => (problem, remedy),
            }
        })
    });
    chain.map_err(|(problem, remedy)| format!("{problem}\n  remedy: {remedy}"))
}

/// Whether only its owner may read a file.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Secrecy {
    OwnerOnly,
    Public,
}

/// A kind of PEM block, for errors.
pub(super) struct BlockKind {
    pub label: &'static str,
    pub meaning: &'static str,
    /// The `openssl` command that converts DER, where that is needed.
    pub tool: Option<&'static str>,
}

const CERTIFICATE: BlockKind = BlockKind {
    label: "CERTIFICATE",
    meaning: "one or more certificates",
    tool: Some("x509"),
};

/// The blocks of a kind in the file at `path`, of which there must be one; or the problem and its
/// remedy.
pub(super) fn pem_blocks<T: PemObject>(
    path: &str,
    pem: &[u8],
    kind: &BlockKind,
) -> Result<Vec<T>, Problem> {
    Err(
        match (
            T::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>(),
            kind.tool,
        ) {
            (Ok(blocks), _) if !blocks.is_empty() => return Ok(blocks),
            (Ok(_), _) if pem.trim_ascii().is_empty() => (
                format!("{path} is empty"),
                format!("put {} into it, in PEM form", kind.meaning),
            ),
            // A DER file starts with a SEQUENCE.
            (Ok(_), Some(tool)) if pem.first() == Some(&0x30) => (
                format!("{path} is in DER form, not PEM"),
                format!("convert it: openssl {tool} -inform der -in {path} -out NEW"),
            ),
            (Ok(_), _) => (
                format!("{path} holds no PEM block {}", kind.label),
                format!("name a file of {} in PEM form", kind.meaning),
            ),
            (Err(error), _) => (
                format!("{path} is damaged: {}", describe(&error)),
                "replace the file by an undamaged one".to_owned(),
            ),
        },
    )
}

fn shown(file: &FileSetting) -> String {
    file.path.display().to_string()
}

/// The bytes of the file at `path`, through symbolic links; or the problem and its remedy.
pub(super) fn read(path: &Path, secrecy: Secrecy) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let refused = |error: io::Error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => {
                "create it, or correct the path; a relative one starts at the directory of the \
                 configuration file"
            }
            _ => "let the user that Ringgate runs as read it, and enter its directories",
        };
        (
            format!("cannot read {}: {error}", path.display()),
            remedy.to_owned(),
        )
    };
    // Before it is opened: opening a FIFO would wait for a writer.
    if !fs::metadata(path).map_err(refused)?.is_file() {
        let problem = format!("{} is not a regular file", path.display());
        return Err((problem, "name a file".to_owned()));
    }
    let file = File::open(path).map_err(refused)?;
    // Of the open file, so that what is checked is what is read.
    let metadata = file.metadata().map_err(refused)?;
    let (mode, user) = (metadata.mode() & 0o7777, rustix::process::geteuid());
    if secrecy == Secrecy::OwnerOnly && is_open(mode, metadata.uid(), user.as_raw()) {
        let path = path.display();
        return Err((
            format!("the key in {path} is open to group or others (mode {mode:04o})"),
            format!(
                "chmod 600 {path} (640 will do where root owns it and Ringgate runs as another \
                 user); if others had access to it, replace the key"
            ),
        ));
    }
    if metadata.len() > PEM_BYTES_MAX {
        let problem = format!(
            "{} is larger than {} MiB",
            path.display(),
            PEM_BYTES_MAX >> 20
        );
        return Err((problem, "split it into several files".to_owned()));
    }
    let len = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    read_all(file, len).map_err(refused)?.ok_or_else(|| {
        let problem = format!("{} grew while it was read", path.display());
        let remedy = "write it under another name and rename it, then reload";
        (problem, remedy.to_owned())
    })
}

/// Whether a file with this mode and owner is open to more than `user`, which is to read it, and
/// root.
fn is_open(mode: u32, owner: u32, user: u32) -> bool {
    const ROOT: u32 = 0;
    // So Kubernetes gives secrets to a pod whose user is not root (`fsGroup`): there is no other way
    // to read them than by the group.
    let by_group = owner == ROOT && user != ROOT;
    let allowed = if by_group { GROUP_READS } else { 0 };
    mode & GROUP_AND_OTHERS & !allowed != 0
}

/// What `file` holds, if that is not more than `len` bytes. The buffer does not grow: what a secret
/// was moved from would stay in memory.
fn read_all(mut file: impl Read, len: usize) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // One more, by which it shows.
    let mut bytes = Zeroizing::new(vec![0; len + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => {
                bytes.truncate(filled);
                return Ok(Some(bytes));
            }
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn describe(error: &PemError) -> String {
    match error {
        PemError::MissingSectionEnd { end_marker } => {
            format!(
                "the line {} is missing",
                String::from_utf8_lossy(end_marker).trim()
            )
        }
        PemError::IllegalSectionStart { line } => {
            format!(
                "`{}` does not start a PEM block",
                String::from_utf8_lossy(line).trim()
            )
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_reads_a_key_only_where_root_keeps_it_for_another_user() {
        for mode in [0o400, 0o600, 0o700] {
            for owner in [0, 7] {
                assert!(!is_open(mode, owner, 7));
            }
        }
        for mode in [0o440, 0o640] {
            assert!(!is_open(mode, 0, 7));
            for (owner, user) in [(0, 0), (7, 7), (8, 7), (7, 0)] {
                assert!(is_open(mode, owner, user), "{owner} {user}");
            }
        }
        for mode in [0o420, 0o460, 0o404, 0o402, 0o444, 0o646] {
            for (owner, user) in [(0, 0), (0, 7), (7, 7)] {
                assert!(is_open(mode, owner, user), "{mode:o} {owner} {user}");
            }
        }
    }

    /// A byte at a time, with interruptions.
    struct Slow<'a>(&'a [u8], bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            match self.1 {
                true => Err(ErrorKind::Interrupted.into()),
                false => self.0.read(&mut buffer[..1]),
            }
        }
    }

    #[test]
    fn a_file_is_read_into_one_buffer() {
        for (content, len, expected) in [
            (&b"key"[..], 3, Some(&b"key"[..])),
            (b"", 0, Some(b"")),
            // Cut off since its length was asked for.
            (b"ke", 3, Some(b"ke")),
            (b"keys", 3, None),
            (b"k", 0, None),
        ] {
            let read = read_all(Slow(content, false), len).unwrap();
            assert_eq!(read.as_ref().map(|bytes| &bytes[..]), expected);
            assert!(read.is_none_or(|bytes| bytes.capacity() == len + 1));
        }
        let failing = File::open("/proc/self/mem").unwrap();
        assert!(read_all(failing, 3).is_err());
    }
}
