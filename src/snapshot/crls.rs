//! CRLs from files and directories, in PEM or DER.

use std::fs;
use std::mem::take;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::CertificateRevocationListDer;
use webpki::BorrowedCertRevocationList;

use super::files::{BlockKind, Problem, Secrecy, pem_blocks, read};
use crate::limits::{CRL_DIRECTORY_BYTES_MAX, CRL_FILES_PER_DIRECTORY_MAX};
use crate::trust::identity::RevocationList;

/// A CRL and where it stood.
#[derive(Clone)]
pub(super) struct LoadedCrl {
    pub file: Arc<Path>,
    pub der: CertificateRevocationListDer<'static>,
    pub about: RevocationList,
}

const CRL: BlockKind = BlockKind {
    label: "X509 CRL",
    meaning: "one or more CRLs",
    tool: None,
};

/// The CRLs of the file at `path`, or of every file of the directory there: at least one, each of
/// them readable.
pub(super) fn load(path: &Path) -> Result<Vec<LoadedCrl>, Problem> {
    // What cannot be looked at is told by reading it.
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        load_directory(path)
    } else {
        parse(path, take(&mut *read(path, Secrecy::Public)?))
    }
}

/// In the order of the names, so that errors and logs do not depend on the file system.
fn load_directory(path: &Path) -> Result<Vec<LoadedCrl>, Problem> {
    let mut crls = Vec::new();
    for file in files_of(path)? {
        let mut content = read(&file, Secrecy::Public)?;
        crls.extend(parse(&file, take(&mut *content))?);
    }
    if crls.is_empty() {
        return Err((
            format!(
                "the directory {} holds no file, so nothing would say who is revoked",
                path.display()
            ),
            "put the CRLs of your CAs there first (one that revokes nobody will do), or take the \
             directory out of `crl`"
                .to_owned(),
        ));
    }
    Ok(crls)
}

/// The regular files of a directory, through symbolic links. Names that begin with a dot are left
/// out: `..data` and the like are how Kubernetes swaps a whole directory.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let refused = |path: &Path, error: std::io::Error| {
        (
            format!("cannot read {}: {error}", path.display()),
            "let the user that Ringgate runs as read it; remove links that lead nowhere".to_owned(),
        )
    };
    let (mut paths, mut bytes) = (Vec::new(), 0_u64);
    for entry in fs::read_dir(directory).map_err(|error| refused(directory, error))? {
        let entry = entry.map_err(|error| refused(directory, error))?;
        if entry.file_name().as_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        let metadata = fs::metadata(&path).map_err(|error| refused(&path, error))?;
        if !metadata.is_file() {
            continue;
        }
        // Before any of them is read.
        bytes = bytes.saturating_add(metadata.len());
        if bytes > CRL_DIRECTORY_BYTES_MAX {
            let max = CRL_DIRECTORY_BYTES_MAX >> 20;
            return Err((
                format!(
                    "the files of {} have more than {max} MiB",
                    directory.display()
                ),
                "keep only the CRLs there that this route needs".to_owned(),
            ));
        }
        if paths.len() == CRL_FILES_PER_DIRECTORY_MAX {
            return Err((
                format!(
                    "{} has more than {CRL_FILES_PER_DIRECTORY_MAX} files",
                    directory.display()
                ),
                "keep only CRLs there; one file may hold several in PEM form".to_owned(),
            ));
        }
        paths.push(path);
    }
    paths.sort_unstable();
    Ok(paths)
}

fn parse(path: &Path, content: Vec<u8>) -> Result<Vec<LoadedCrl>, Problem> {
    let shown = path.display().to_string();
    let ders = if is_der(&content) {
        vec![CertificateRevocationListDer::from(content)]
    } else {
        pem_blocks(&shown, &content, &CRL)?
    };
    let file = Arc::from(path);
    let crls = ders.into_iter().enumerate().map(|(at, der)| {
        let refused = |error: String| {
            (
                format!("CRL {} in {shown}: {error}", at + 1),
                "replace it by what its issuer publishes now".to_owned(),
            )
        };
        let about = RevocationList::from_der(&der).map_err(|error| refused(error.to_string()))?;
        BorrowedCertRevocationList::from_der(&der).map_err(|error| {
            refused(format!(
                "of {}: it is malformed or of a kind not supported: {error}",
                about.issuer
            ))
        })?;
        let file = Arc::clone(&file);
        Ok(LoadedCrl { file, der, about })
    });
    crls.collect()
}

/// Whether this is a SEQUENCE whose length is in the long form, as that of every CRL is: its second
/// byte is none of ASCII, so that it is no PEM.
fn is_der(content: &[u8]) -> bool {
    matches!(content, [0x30, second, ..] if !second.is_ascii())
}
