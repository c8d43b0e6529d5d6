//! The forward pass of a BERT encoder with the dimensions of all-MiniLM-L6-v2.
//!
//! Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019).
//! Texts of a batch lie one after another in the rows of each matrix. Only attention looks
//! across rows, and only within a text, so no text is padded and none depends on its neighbours.

use std::ops::Range;

use pulp::Arch;

use super::EmbedError;
use super::attention::Attention;
use super::matmul::{Finish, Linear};
use super::norm::LayerNorm;
use super::panels::{Panels, Row, WIDTH, to_rows};
use super::pieces::LONGEST;
use super::tensors::{Table, TensorFile};

/// Width of a token's vector.
pub const HIDDEN: usize = 384;
/// Width of the feed-forward layer.
pub const INTERMEDIATE: usize = 1536;
/// Transformer layers.
pub const LAYERS: usize = 6;
/// Attention heads, each [`WIDTH`] wide.
pub const HEADS: usize = 12;
/// Word pieces known to the model.
pub const VOCABULARY: usize = 30_522;
/// Positions the weights hold; the first [`LONGEST`] are used.
pub const POSITIONS: usize = 512;

const PANELS: usize = HIDDEN / WIDTH;

/// The encoder and its weights. The word table stays on disk: it is half the file, and a text reads a few of its rows.
pub struct Bert {
    arch: Arch,
    words: Table<HIDDEN>,
    /// Position plus segment embedding, [`PANELS`] rows per position.
    positions: Vec<Row>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    /// Queries (scaled), keys, values.
    qkv: Linear,
    attention_out: Linear,
    attention_norm: LayerNorm,
    expand: Linear,
    contract: Linear,
    norm: LayerNorm,
}

impl Bert {
    /// Reads the weights, tensor by tensor.
    pub fn load(file: TensorFile) -> Result<Self, EmbedError> {
        let mut positions = file.read("embeddings.position_embeddings.weight", &[POSITIONS, HIDDEN])?;
        positions.truncate(LONGEST * HIDDEN);
        // One segment only: its embedding belongs to every position.
        let segment = file.read("embeddings.token_type_embeddings.weight", &[2, HIDDEN])?;
        for row in positions.chunks_exact_mut(HIDDEN) {
            row.iter_mut().zip(&segment).for_each(|(p, s)| *p += s);
        }
        Ok(Self {
            arch: Arch::new(),
            positions: to_rows(&positions),
            norm: layer_norm(&file, "embeddings.LayerNorm")?,
            layers: (0..LAYERS).map(|i| Layer::load(&file, i)).collect::<Result<_, _>>()?,
            words: file.into_table("embeddings.word_embeddings.weight", VOCABULARY)?,
        })
    }

    /// The last layer's vector of every piece of every text, text after text.
    pub fn forward(&self, texts: &[Vec<u32>]) -> Result<Panels, EmbedError> {
        let mut x = self.look_up(texts)?;
        self.norm.apply(self.arch, &mut x);
        let mut scratch = Scratch {
            qkv: Panels::zeros(x.rows(), 3 * PANELS),
            attended: Panels::zeros(x.rows(), PANELS),
            expanded: Panels::zeros(x.rows(), INTERMEDIATE / WIDTH),
            attention: Attention::default(),
        };
        for layer in &self.layers {
            layer.forward(self.arch, texts, &mut x, &mut scratch);
        }
        Ok(x)
    }

    /// Word, position and segment embedding of every piece, summed.
    fn look_up(&self, texts: &[Vec<u32>]) -> Result<Panels, EmbedError> {
        let mut x = Panels::zeros(texts.iter().map(Vec::len).sum(), PANELS);
        for (text, rows) in texts.iter().zip(row_ranges(texts)) {
            for ((piece, position), row) in text.iter().zip(self.positions.chunks_exact(PANELS)).zip(rows) {
                let word = self.words.row(*piece)?;
                for (panel, (word, position)) in word.as_chunks::<WIDTH>().0.iter().zip(position).enumerate()
                {
                    let target = &mut x.data_mut(panel, row)[0];
                    for ((t, w), p) in target.0.iter_mut().zip(word).zip(&position.0) {
                        *t = w + p;
                    }
                }
            }
        }
        Ok(x)
    }
}

/// The rows of each text of a batch.
pub fn row_ranges(texts: &[Vec<u32>]) -> impl Iterator<Item = Range<usize>> {
    texts.iter().scan(0, |start, text| {
        let rows = *start..*start + text.len();
        *start = rows.end;
        Some(rows)
    })
}

/// Matrices between the steps of a layer, used by one layer after another.
struct Scratch {
    qkv: Panels,
    attended: Panels,
    expanded: Panels,
    attention: Attention,
}

impl Layer {
    fn load(file: &TensorFile, index: usize) -> Result<Self, EmbedError> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        Ok(Self {
            qkv: load_qkv(file, &name("attention.self"))?,
            attention_out: linear(file, &name("attention.output.dense"), HIDDEN, HIDDEN)?,
            attention_norm: layer_norm(file, &name("attention.output.LayerNorm"))?,
            expand: linear(file, &name("intermediate.dense"), INTERMEDIATE, HIDDEN)?,
            contract: linear(file, &name("output.dense"), HIDDEN, INTERMEDIATE)?,
            norm: layer_norm(file, &name("output.LayerNorm"))?,
        })
    }

    fn forward(&self, arch: Arch, texts: &[Vec<u32>], x: &mut Panels, scratch: &mut Scratch) {
        let Scratch { qkv, attended, expanded, attention } = scratch;
        self.qkv.apply(arch, x, qkv, Finish::Store);
        for rows in row_ranges(texts) {
            attention.apply(arch, qkv, rows, HEADS, attended);
        }
        self.attention_out.apply(arch, attended, x, Finish::Add);
        self.attention_norm.apply(arch, x);
        self.expand.apply(arch, x, expanded, Finish::Gelu);
        self.contract.apply(arch, expanded, x, Finish::Add);
        self.norm.apply(arch, x);
    }
}

/// The three projections as one layer, with the attention scale 1/√[`WIDTH`] put into the queries.
fn load_qkv(file: &TensorFile, name: &str) -> Result<Linear, EmbedError> {
    let (mut weight, mut bias) = (Vec::new(), Vec::new());
    for (part, scale) in [("query", (1.0 / 32.0_f32).sqrt()), ("key", 1.0), ("value", 1.0)] {
        let part_weight = file.read(&format!("{name}.{part}.weight"), &[HIDDEN, HIDDEN])?;
        let part_bias = file.read(&format!("{name}.{part}.bias"), &[HIDDEN])?;
        weight.extend(part_weight.iter().map(|w| w * scale));
        bias.extend(part_bias.iter().map(|b| b * scale));
    }
    Ok(Linear::new(&weight, &bias))
}

fn linear(file: &TensorFile, name: &str, outputs: usize, inputs: usize) -> Result<Linear, EmbedError> {
    let weight = file.read(&format!("{name}.weight"), &[outputs, inputs])?;
    Ok(Linear::new(&weight, &file.read(&format!("{name}.bias"), &[outputs])?))
}

fn layer_norm(file: &TensorFile, name: &str) -> Result<LayerNorm, EmbedError> {
    let gain = file.read(&format!("{name}.weight"), &[HIDDEN])?;
    Ok(LayerNorm::new(&gain, &file.read(&format!("{name}.bias"), &[HIDDEN])?))
}
