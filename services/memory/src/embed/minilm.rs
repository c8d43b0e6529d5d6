//! all-MiniLM-L6-v2: mean of the encoder's token vectors, scaled to length one.
//!
//! Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks" (2019).

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::Value;

use super::bert::{self, Bert, HIDDEN, row_ranges};
use super::panels::{Panels, WIDTH};
use super::pieces::WordPieces;
use super::tensors::TensorFile;
use super::{EmbedError, Embedder};

/// Most pieces in one forward pass, unless one text alone has more. Bounds the working memory to
/// about 14 kB a piece and thread, and keeps it in the processor's cache.
const BATCH: usize = 384;

/// The model, its tokenizer and its threads.
pub struct MiniLm {
    pieces: WordPieces,
    bert: Bert,
    threads: ThreadPool,
}

impl MiniLm {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` from `dir`. All calls together use
    /// at most `threads` CPU threads (at least one).
    pub fn load(dir: &Path, threads: usize) -> Result<Self, EmbedError> {
        check_config(&dir.join("config.json"))?;
        let threads = threads.max(1);
        Ok(Self {
            pieces: WordPieces::load(&dir.join("tokenizer.json"), bert::VOCABULARY)?,
            bert: Bert::load(TensorFile::open(&dir.join("model.safetensors"))?)?,
            threads: ThreadPoolBuilder::new()
                .num_threads(threads)
                .thread_name(|i| format!("embed-{i}"))
                .build()
                .map_err(|source| EmbedError::Threads { threads, source })?,
        })
    }

    fn embed_batch(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EmbedError> {
        let tokens = self.bert.forward(texts)?;
        Ok(row_ranges(texts).map(|rows| pool(&tokens, rows)).collect())
    }
}

impl Embedder for MiniLm {
    fn id(&self) -> &'static str {
        "all-MiniLM-L6-v2"
    }

    fn dimension(&self) -> usize {
        HIDDEN
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.threads.install(|| {
            let pieces =
                texts.par_iter().map(|text| self.pieces.encode(text)).collect::<Result<Vec<_>, _>>()?;
            let vectors = batches(&pieces, self.threads.current_num_threads())
                .par_iter()
                .map(|batch| self.embed_batch(batch))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(vectors.into_iter().flatten().collect())
        })
    }
}

/// Consecutive texts in groups of at most [`BATCH`] pieces, fewer if that gives every thread a share.
fn batches(texts: &[Vec<u32>], threads: usize) -> Vec<&[Vec<u32>]> {
    let total: usize = texts.iter().map(Vec::len).sum();
    let most = total.div_ceil(threads).min(BATCH);
    let mut pieces = 0;
    let mut batches = Vec::new();
    let mut start = 0;
    for (i, text) in texts.iter().enumerate() {
        if i > start && pieces + text.len() > most {
            batches.push(&texts[start..i]);
            (start, pieces) = (i, 0);
        }
        pieces += text.len();
    }
    if start < texts.len() {
        batches.push(&texts[start..]);
    }
    batches
}

/// The mean of the given rows, scaled to length one.
fn pool(tokens: &Panels, rows: Range<usize>) -> Vec<f32> {
    let mut vector = Vec::with_capacity(HIDDEN);
    for panel in 0..HIDDEN / WIDTH {
        let mut sum = [0.0; WIDTH];
        for row in &tokens.view(panel, rows.start).data[..rows.len()] {
            sum.iter_mut().zip(&row.0).for_each(|(s, x)| *s += x);
        }
        vector.extend(sum);
    }
    // The mean's divisor cancels in the normalisation. The bound keeps a zero vector zero.
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    for x in &mut vector {
        *x /= length;
    }
    vector
}

/// Refuses a model whose `config.json` differs in anything the forward pass takes for granted.
fn check_config(path: &Path) -> Result<(), EmbedError> {
    let json = std::fs::read(path).map_err(|source| EmbedError::Unreadable { path: path.into(), source })?;
    let config: Value =
        serde_json::from_slice(&json).map_err(|source| EmbedError::Json { path: path.into(), source })?;
    let expected: [(&str, Value); 9] = [
        ("model_type", "bert".into()),
        ("hidden_act", "gelu".into()),
        ("hidden_size", HIDDEN.into()),
        ("intermediate_size", bert::INTERMEDIATE.into()),
        ("num_attention_heads", bert::HEADS.into()),
        ("num_hidden_layers", bert::LAYERS.into()),
        ("vocab_size", bert::VOCABULARY.into()),
        ("max_position_embeddings", bert::POSITIONS.into()),
        ("layer_norm_eps", 1e-12.into()),
    ];
    for (key, expected) in expected {
        let found = config.get(key).unwrap_or(&Value::Null);
        if *found != expected {
            return Err(EmbedError::OtherModel {
                path: path.into(),
                what: key.into(),
                found: found.to_string(),
                expected: expected.to_string(),
            });
        }
    }
    Ok(())
}
