//! Embedders: text in, one vector of fixed dimension out.
//!
//! [`MiniLm`] runs all-MiniLM-L6-v2 in this process. The rest of the service sees only the
//! [`Embedder`] trait.

mod attention;
mod bert;
mod matmul;
mod minilm;
mod norm;
mod panels;
mod pieces;
mod simd;
mod tensors;

use std::path::PathBuf;

pub use minilm::MiniLm;

/// Turns texts into vectors that can be compared by cosine.
pub trait Embedder: Send + Sync {
    /// The name stored with a namespace; two embedders with one id give the same vectors.
    fn id(&self) -> &str;

    /// The number of components of each vector.
    fn dimension(&self) -> usize;

    /// One vector per text, in the order of `texts`. Blocks on the CPU: call it off the async executor.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// How to obtain the model, said by every error that a missing or damaged file causes.
const REMEDY: &str =
    "fetch the model again with `testenv fetch model`, or name its directory with --model-dir";

/// Why a model could not be loaded or a text not be embedded.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A model file is absent or unreadable.
    #[error("cannot read {}: {REMEDY}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the file system answered.
        source: std::io::Error,
    },
    /// A model file is not in the format its name promises.
    #[error("{} is damaged: {reason}; {REMEDY}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model file holds invalid JSON.
    #[error("{} is not valid JSON for this model; {REMEDY}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where the JSON goes wrong.
        source: serde_json::Error,
    },
    /// The directory holds another model than all-MiniLM-L6-v2.
    #[error("{} is not all-MiniLM-L6-v2: {what} is {found}, expected {expected}; {REMEDY}", path.display())]
    OtherModel {
        /// The file that tells.
        path: PathBuf,
        /// The setting or tensor that differs.
        what: String,
        /// Its value in the file.
        found: String,
        /// Its value in all-MiniLM-L6-v2.
        expected: String,
    },
    /// The tokenizer's definition cannot be used.
    #[error("{} cannot be used as a tokenizer; {REMEDY}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text could not be split into word pieces.
    #[error("cannot split the text into word pieces")]
    Tokenize(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The worker threads could not be started.
    #[error("cannot start {threads} embedding threads")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the operating system answered.
        source: rayon::ThreadPoolBuildError,
    },
}
