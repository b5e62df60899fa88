//! Skills: what is uploaded, and how it becomes something that a worker can run.
//!
//! Flow: an upload is checked, compiled in a child process and signed (`upload`), then stored with
//! its machine code and made active (`store`).

pub mod store;
pub mod upload;

// Stand-ins with the signatures of the real modules.
pub mod artifact {
    //! Stand-in.
    use sha2::Digest as _;
    /// Stand-in.
    #[derive(Debug, thiserror::Error)]
    pub enum ArtifactError {
        /// Stand-in.
        #[error("packing")]
        Unpack(#[source] std::io::Error),
    }
    /// Stand-in.
    pub struct Statement {
        /// Stand-in.
        pub artifact_sha256: [u8; 32],
        /// Stand-in.
        pub artifact_len: u64,
        /// Stand-in.
        pub wasm_sha256: [u8; 32],
        /// Stand-in.
        pub fingerprint: String,
    }
    impl Statement {
        /// Stand-in.
        pub fn about(artifact: &[u8], wasm: &[u8], fingerprint: &str) -> Self {
            Self {
                artifact_sha256: sha2::Sha256::digest(artifact).into(),
                artifact_len: artifact.len() as u64,
                wasm_sha256: sha2::Sha256::digest(wasm).into(),
                fingerprint: fingerprint.to_owned(),
            }
        }
    }
    /// Stand-in.
    pub struct Claim {
        /// Stand-in.
        pub statement: Statement,
        /// Stand-in.
        pub signature: [u8; 64],
    }
    /// Stand-in.
    #[derive(Debug)]
    pub struct Signer;
    impl Signer {
        /// Stand-in.
        pub fn generate() -> Self {
            Self
        }
        /// Stand-in.
        pub fn sign(&self, statement: Statement) -> Claim {
            Claim { statement, signature: [0; 64] }
        }
    }
    /// Stand-in.
    pub fn pack(artifact: &[u8]) -> Result<Vec<u8>, ArtifactError> {
        zstd::bulk::compress(artifact, 3).map_err(ArtifactError::Unpack)
    }
}
pub mod compile {
    //! Stand-in.
    /// Stand-in.
    #[derive(Debug)]
    pub struct Compiled {
        /// Stand-in.
        pub artifact: Vec<u8>,
        /// Stand-in.
        pub imports: Vec<String>,
        /// Stand-in.
        pub capabilities: Vec<String>,
        /// Stand-in.
        pub fingerprint: String,
    }
    /// Stand-in.
    #[derive(Debug, thiserror::Error)]
    pub enum CompileError {
        /// Stand-in.
        #[error("{0}")]
        Refused(String),
    }
    /// Stand-in.
    pub async fn compile(wasm: &[u8], _exe: &std::path::Path) -> Result<Compiled, CompileError> {
        if !wasm.starts_with(b"\0asm\x0d\0\x01\0") {
            return Err(CompileError::Refused("this is not a WebAssembly component".into()));
        }
        Ok(Compiled {
            artifact: wasm.to_vec(),
            imports: Vec::new(),
            capabilities: Vec::new(),
            fingerprint: "stand-in".into(),
        })
    }
}
pub mod manifest {
    //! Stand-in.
    /// Stand-in.
    #[derive(Debug, serde::Serialize)]
    pub struct Manifest {
        /// Stand-in.
        pub name: String,
        /// Stand-in.
        pub description: String,
        /// Stand-in.
        pub version: Option<String>,
        /// Stand-in.
        #[serde(skip)]
        pub readme: String,
    }
    /// Stand-in.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    pub struct ManifestError(String);
    impl Manifest {
        /// Stand-in.
        pub fn parse(text: &str) -> Result<Self, ManifestError> {
            let field = |name: &str| {
                text.lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
            };
            Ok(Self {
                name: field("name:").ok_or_else(|| ManifestError("name is missing".into()))?,
                description: field("description:").unwrap_or_default(),
                version: field("version:"),
                readme: String::new(),
            })
        }
    }
}
