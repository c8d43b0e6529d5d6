use serde_json::json;

use super::*;

fn row(coordinate: &str, clock: i64, vector: Option<[f32; 2]>, payload: &Value) -> IndexRow {
    IndexRow {
        coordinate: coordinate.into(),
        kind: if payload["semantic"] == true { Kind::Semantic } else { Kind::Episodic },
        payload: payload.to_string(),
        importance: payload["importance"].as_f64().unwrap_or(1.0),
        version: 1,
        clock,
        created_at: 0,
        updated_at: 0,
        vector: vector.map(|v| v.to_vec()),
    }
}

fn index(rows: Vec<IndexRow>) -> NamespaceIndex {
    let mut index = NamespaceIndex::new("u".into(), 2);
    index.apply(rows);
    index.weigh();
    index
}

fn search(index: &NamespaceIndex, top_k: usize, kind: Option<Kind>, filters: &Value) -> Vec<(String, f64)> {
    let filter = Filter::parse(filters.as_object().unwrap()).unwrap();
    let query = Query { vector: &[1.0, 0.0], top_k, kind, filter: &filter, min_score: 0.0 };
    index.search(&query).unwrap().into_iter().map(|h| (h.coordinate.to_string(), h.score)).collect()
}

#[test]
fn filters_narrow_before_the_best_are_taken() {
    let rows = (0..50_i16)
        .map(|i| {
            let cosine = 1.0 - f32::from(i) / 100.0;
            let payload = json!({"n": i, "semantic": i >= 40});
            row(&format!("{i:02}"), 1, Some([cosine, (1.0 - cosine * cosine).sqrt()]), &payload)
        })
        .collect();
    let index = index(rows);
    let names = |found: Vec<(String, f64)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(search(&index, 2, None, &json!({}))), ["00", "01"]);
    assert_eq!(names(search(&index, 3, Some(Kind::Semantic), &json!({}))), ["40", "41", "42"]);
    assert_eq!(names(search(&index, 2, None, &json!({"n": {"gte": 48}}))), ["48", "49"]);
    assert!(search(&index, 2, None, &json!({"n": 1000})).is_empty());
}

#[test]
fn equal_scores_come_in_the_order_of_their_coordinates_whatever_the_load_order() {
    let rows = |order: [&str; 3]| order.map(|c| row(c, 1, Some([0.5, 0.5]), &json!({}))).into();
    let a = search(&index(rows(["b", "a", "c"])), 2, None, &json!({}));
    let b = search(&index(rows(["c", "b", "a"])), 2, None, &json!({}));
    assert_eq!(a, b);
    assert_eq!(a[0].0, "a");
}

#[test]
fn a_deleted_or_changed_row_is_gone_and_the_others_keep_their_vectors() {
    let mut index = index(vec![
        row("a", 1, Some([1.0, 0.0]), &json!({})),
        row("b", 1, Some([0.0, 1.0]), &json!({})),
        row("c", 1, Some([0.6, 0.8]), &json!({})),
    ]);
    index.apply(vec![row("a", 2, None, &json!({}))]);
    index.weigh();
    let found = search(&index, 9, None, &json!({}));
    assert_eq!(found.iter().map(|f| f.0.as_str()).collect::<Vec<_>>(), ["c", "b"]);
    assert!((found[0].1 - 0.3).abs() < 1e-6, "0.6 · the neutral weight: {}", found[0].1);
    assert_eq!(index.position, Position { clock: 2, coordinate: "a".into() });
    index.apply(vec![row("b", 3, Some([1.0, 0.0]), &json!({}))]);
    index.weigh();
    assert_eq!(search(&index, 1, None, &json!({}))[0].0, "b");
    assert_eq!(index.vectors.len(), 4);
}

#[test]
fn importance_scales_the_score_and_a_negative_cosine_scores_nothing() {
    let index = index(vec![
        row("a", 1, Some([1.0, 0.0]), &json!({"importance": 1})),
        row("b", 1, Some([1.0, 0.0]), &json!({"importance": 3})),
        row("c", 1, Some([-1.0, 0.0]), &json!({"importance": 3})),
    ]);
    assert_eq!(
        search(&index, 3, None, &json!({})),
        [("b".into(), 1.0), ("a".into(), 0.0), ("c".into(), 0.0)]
    );
}
