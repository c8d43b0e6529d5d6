//! all-MiniLM-L6-v2 against the reference implementation, and what its callers rely on.
//!
//! The model is read from `SOMA_MODEL_DIR`, or from the cache directory that `testenv fetch model` fills.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail the test")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;
use soma_memory::embed::{EmbedError, Embedder, MiniLm};

/// What the reference and this implementation may differ by, per component.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Reference {
    text: String,
    vector: Vec<f32>,
}

fn table() -> Vec<Reference> {
    serde_json::from_str(include_str!("data/minilm-reference.json")).unwrap()
}

fn model_dir() -> PathBuf {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from);
    dir("SOMA_MODEL_DIR").unwrap_or_else(|| {
        dir("SOMA_CACHE")
            .or_else(|| dir("XDG_CACHE_HOME").map(|cache| cache.join("soma")))
            .or_else(|| dir("HOME").map(|home| home.join(".cache/soma")))
            .unwrap()
            .join("models/all-MiniLM-L6-v2")
    })
}

fn model() -> &'static MiniLm {
    static MODEL: OnceLock<MiniLm> = OnceLock::new();
    MODEL.get_or_init(|| MiniLm::load(&model_dir(), 1).unwrap())
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn vectors_equal_the_reference() {
    let table = table();
    assert!(table.len() >= 24);
    let texts: Vec<&str> = table.iter().map(|row| row.text.as_str()).collect();
    let vectors = model().embed(&texts).unwrap();
    assert_eq!(vectors.len(), table.len());
    for (row, vector) in table.iter().zip(&vectors) {
        assert_eq!(vector.len(), model().dimension());
        let difference = largest_difference(&row.vector, vector);
        assert!(difference < TOLERANCE, "{difference} off for {:?}", row.text);
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "length² {length} for {:?}", row.text);
    }
}

#[test]
fn a_text_has_one_vector_whatever_surrounds_it() {
    let table = table();
    let mut texts: Vec<&str> = table.iter().map(|row| row.text.as_str()).collect();
    let together = model().embed(&texts).unwrap();
    for (text, vector) in texts.iter().zip(&together) {
        assert_eq!(model().embed(&[text]).unwrap()[0], *vector, "alone and in a batch: {text:?}");
    }
    texts.reverse();
    let mut reversed = model().embed(&texts).unwrap();
    reversed.reverse();
    assert_eq!(reversed, together, "order of the texts");
    assert_eq!(model().embed(&["hello"; 3]).unwrap(), vec![model().embed(&["hello"]).unwrap().remove(0); 3]);
}

#[test]
fn the_number_of_threads_does_not_change_a_vector() {
    let table = table();
    let texts: Vec<&str> = table.iter().map(|row| row.text.as_str()).collect();
    let two = MiniLm::load(&model_dir(), 2).unwrap();
    assert_eq!(two.embed(&texts).unwrap(), model().embed(&texts).unwrap());
}

#[test]
fn no_texts_give_no_vectors() {
    assert!(model().embed(&[]).unwrap().is_empty());
}

#[test]
fn what_follows_256_pieces_is_not_embedded() {
    let kept = "word ".repeat(254);
    let vectors = model().embed(&[&kept, &format!("{kept}elephant"), &"word ".repeat(253)]).unwrap();
    assert_eq!(vectors[0], vectors[1]);
    assert_ne!(vectors[0], vectors[2]);
    // A megabyte of text costs what its first 256 pieces cost, also when white space comes late.
    let long = "a boat on the river ".repeat(60_000);
    assert_eq!(model().embed(&[&long]).unwrap(), model().embed(&[&long[..20 * 52]]).unwrap());
}

#[test]
fn different_texts_have_different_vectors() {
    let texts = ["the cat sat on the mat", "a feline rested on the rug", "interest rates rose again"];
    let vectors = model().embed(&texts).unwrap();
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let (near, far) = (cosine(&vectors[0], &vectors[1]), cosine(&vectors[0], &vectors[2]));
    assert!(near > far + 0.3, "near {near}, far {far}");
}

/// A directory with the model's files, of which one is replaced by `change`.
fn changed_model(file: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let source = model_dir().join(name);
        if name != file {
            std::os::unix::fs::symlink(source, dir.path().join(name)).unwrap();
        } else if let Some(content) = change(std::fs::read(source).unwrap()) {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
    }
    dir
}

fn load_error(dir: &Path) -> EmbedError {
    MiniLm::load(dir, 1).err().expect("the model must be refused")
}

fn assert_helps(error: &EmbedError, words: &[&str]) {
    let message = error.to_string();
    for word in words.iter().chain(&["testenv fetch model", "--model-dir"]) {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

#[test]
fn an_absent_file_is_named() {
    let error = load_error(Path::new("/nowhere/at/all"));
    assert!(matches!(error, EmbedError::Unreadable { .. }), "{error}");
    assert_helps(&error, &["/nowhere/at/all/config.json"]);
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let error = load_error(changed_model(file, |_| None).path());
        assert!(matches!(error, EmbedError::Unreadable { .. }), "{error}");
        assert_helps(&error, &[file]);
    }
}

#[test]
fn damaged_weights_are_refused() {
    let cut = |length: usize| {
        move |mut content: Vec<u8>| {
            content.truncate(length);
            Some(content)
        }
    };
    for length in [0, 7, 8, 5000, 50_000_000, 90_868_375] {
        let error = load_error(changed_model("model.safetensors", cut(length)).path());
        assert!(matches!(error, EmbedError::Damaged { .. }), "{length}: {error}");
        assert_helps(&error, &["model.safetensors", "damaged"]);
    }
    let huge_header = |mut content: Vec<u8>| {
        content[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        Some(content)
    };
    let error = load_error(changed_model("model.safetensors", huge_header).path());
    assert!(matches!(error, EmbedError::Damaged { .. }), "{error}");
    let not_json = |mut content: Vec<u8>| {
        content[8] = b'!';
        Some(content)
    };
    let error = load_error(changed_model("model.safetensors", not_json).path());
    assert!(matches!(error, EmbedError::Json { .. }), "{error}");
    assert_helps(&error, &["model.safetensors"]);
}

#[test]
fn another_model_is_refused() {
    let replace = |from: &'static str, to: &'static str| {
        move |content: Vec<u8>| {
            // Lengths are kept, so that only the meaning differs.
            assert_eq!(from.len(), to.len());
            let at = content.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut content = content;
            content[at..at + to.len()].copy_from_slice(to.as_bytes());
            Some(content)
        }
    };
    for (file, from, to, words) in [
        ("config.json", "\"gelu\"", "\"relu\"", ["hidden_act", "relu"]),
        ("config.json", "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 9", ["num_hidden_layers", "9"]),
        (
            "model.safetensors",
            "\"shape\":[30522,384]",
            "\"shape\":[384,30522]",
            ["word_embeddings", "[384, 30522]"],
        ),
        (
            "model.safetensors",
            "layer.5.output.dense.bias",
            "layer.7.output.dense.bias",
            ["layer.5", "absent"],
        ),
        ("tokenizer.json", "\"[CLS]\"", "\"[KLS]\"", ["tokenizer.json", "tokenizer"]),
    ] {
        let error = load_error(changed_model(file, replace(from, to)).path());
        assert_helps(&error, &words);
        assert_helps(&error, &[file]);
    }
    let error = load_error(changed_model("tokenizer.json", |_| Some(b"{}".to_vec())).path());
    assert!(matches!(error, EmbedError::Tokenizer { .. }), "{error}");
}
