//! Accounts at authorities: an ECDSA P-256 key for each directory and address, kept sealed.
//!
//! The key is on disk before the authority hears of it, so that a crash in between makes no second account: asked again
//! with the same key, the authority gives the same account.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use instant_acme::{Account, Key};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use coppice_spec::AcmeSpec;

use crate::https::AcmeTransport;
use crate::seal::SealKey;
use crate::secret::Secret;
use coppice_secret::durable;

/// Why there is no account to order with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccountError {
    #[error("cannot keep the account's key in {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the account in {path} cannot be read: {why}; remove the file to make a new account")]
    Damaged { path: PathBuf, why: String },
    #[error(transparent)]
    Acme(#[from] instant_acme::Error),
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    directory: String,
    email: String,
    /// PKCS#8 in base64.
    key: Secret,
    /// The authority took the account and its address.
    registered: bool,
}

/// The accounts of this node.
pub(crate) struct Accounts {
    folder: PathBuf,
    key: Arc<SealKey>,
    /// Held over a registration, so that two orders at once make one account.
    known: Mutex<HashMap<(String, String), Account>>,
}

impl Accounts {
    pub(crate) fn open(folder: &Path, key: Arc<SealKey>) -> io::Result<Self> {
        durable::make_folder(folder)?;
        durable::sweep(folder)?;
        Ok(Self { folder: folder.to_path_buf(), key, known: Mutex::default() })
    }

    /// The account for `acme`'s directory and address; registered if it is new.
    pub(crate) async fn get(&self, acme: &AcmeSpec, transport: &AcmeTransport) -> Result<Account, AccountError> {
        let (directory, email) = (acme.directory.url().to_owned(), acme.email.clone());
        let mut known = self.known.lock().await;
        if let Some(account) = known.get(&(directory.clone(), email.clone())) {
            return Ok(account.clone());
        }
        let path = self.path_of(&directory, &email);
        let purpose = format!("account/{directory}/{email}");
        let mut kept = match self.load(&path, &purpose)? {
            Some(kept) => kept,
            None => {
                let (_, der) = Key::generate_pkcs8()?;
                let key = Secret::new(BASE64_STANDARD.encode(der.secret_pkcs8_der()));
                let new = OnDisk { directory: directory.clone(), email: email.clone(), key, registered: false };
                self.save(&path, &purpose, &new)?;
                new
            }
        };
        let damaged = |why: String| AccountError::Damaged { path: path.clone(), why };
        let der = BASE64_STANDARD.decode(kept.key.expose()).map_err(|error| damaged(error.to_string()))?;
        let der = PrivatePkcs8KeyDer::from(der);
        let key = Key::from_pkcs8_der(der.clone_key())?;
        let builder = Account::builder_with_http(Box::new(transport.clone()));
        // An authority that lost the account (a test server does) is simply given it again.
        let (account, _) = builder.create_from_key((key, PrivateKeyDer::Pkcs8(der)), directory.clone()).await?;
        if !kept.registered {
            account.update_contacts(&[&format!("mailto:{email}")]).await?;
            kept.registered = true;
            self.save(&path, &purpose, &kept)?;
        }
        known.insert((directory, email), account.clone());
        Ok(account)
    }

    /// Forgets the connection to an account, not its key: the next order asks the authority anew.
    pub(crate) async fn refresh(&self, acme: &AcmeSpec) {
        self.known.lock().await.remove(&(acme.directory.url().to_owned(), acme.email.clone()));
    }

    fn path_of(&self, directory: &str, email: &str) -> PathBuf {
        let digest = hex::encode(Sha256::digest(format!("{directory}\n{email}")));
        self.folder.join(format!("{}.sealed", &digest[..32]))
    }

    fn load(&self, path: &Path, purpose: &str) -> Result<Option<OnDisk>, AccountError> {
        let damaged = |why: String| AccountError::Damaged { path: path.to_path_buf(), why };
        let sealed = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| AccountError::Io { path: path.to_path_buf(), source })?,
        };
        let text = self.key.open(purpose, &sealed).map_err(|error| damaged(error.to_string()))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| damaged(error.to_string()))
    }

    fn save(&self, path: &Path, purpose: &str, account: &OnDisk) -> Result<(), AccountError> {
        let text = Zeroizing::new(serde_json::to_vec(account).expect("an account is always JSON"));
        durable::write(path, &self.key.seal(purpose, &text))
            .map_err(|source| AccountError::Io { path: path.to_path_buf(), source })
    }
}
