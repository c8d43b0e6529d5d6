//! Word pieces: how the model reads a text.

use std::path::Path;

use tokenizers::Tokenizer;

use super::EmbedError;

/// Most pieces of one text, both markers included: the package's `sentence_bert_config.json`
/// (`max_seq_length`). What follows is not embedded, as in the reference implementation.
pub const LONGEST: usize = 256;

/// Bytes after which a text is cut at the next white space and tokenized in parts.
const PART: usize = 2048;

/// Splits texts into word pieces.
pub struct WordPieces {
    tokenizer: Tokenizer,
    begin: u32,
    end: u32,
}

impl WordPieces {
    /// Reads `tokenizer.json`. Every id it can yield is below `vocabulary`.
    pub fn load(path: &Path, vocabulary: usize) -> Result<Self, EmbedError> {
        let json = std::fs::read_to_string(path)
            .map_err(|source| EmbedError::Unreadable { path: path.into(), source })?;
        let mut tokenizer = json
            .parse::<Tokenizer>()
            .map_err(|source| EmbedError::Tokenizer { path: path.into(), source })?;
        let other = |what: &str, found: String, expected: String| EmbedError::OtherModel {
            path: path.into(),
            what: what.into(),
            found,
            expected,
        };
        let size = tokenizer.get_vocab_size(true);
        if size != vocabulary {
            return Err(other("vocabulary size", size.to_string(), vocabulary.to_string()));
        }
        let marker =
            |name| tokenizer.token_to_id(name).ok_or_else(|| other(name, "absent".into(), "a token".into()));
        let (begin, end) = (marker("[CLS]")?, marker("[SEP]")?);
        // The file asks for 128 pieces and for padding to them; neither is this model's setting.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|source| EmbedError::Tokenizer { path: path.into(), source })?;
        Ok(Self { tokenizer, begin, end })
    }

    /// The text's piece ids between the two markers, at most [`LONGEST`] in all.
    ///
    /// A word piece never spans white space, so reading a long text part by part changes nothing,
    /// and the work is bounded by what is kept.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        let mut pieces = vec![self.begin];
        let mut rest = text;
        while !rest.is_empty() && pieces.len() < LONGEST - 1 {
            let (part, next) = rest.split_at(part_length(rest));
            rest = next;
            let encoding = self.tokenizer.encode_fast(part, false).map_err(EmbedError::Tokenize)?;
            pieces.extend_from_slice(encoding.get_ids());
        }
        pieces.truncate(LONGEST - 1);
        pieces.push(self.end);
        Ok(pieces)
    }
}

/// Length in bytes of the first part of `text`: up to the first white space after [`PART`] bytes.
fn part_length(text: &str) -> usize {
    text.char_indices().find(|(at, c)| *at >= PART && c.is_whitespace()).map_or(text.len(), |(at, _)| at)
}
