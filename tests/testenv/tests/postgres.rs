//! A PostgreSQL server survives being killed, and leaves nothing behind.

use soma_testenv::Postgres;

#[tokio::test]
async fn committed_rows_survive_a_kill_and_databases_are_apart() {
    let mut postgres = Postgres::start().await.unwrap();
    postgres.psql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await.unwrap();
    let (first, second) =
        (postgres.create_database().await.unwrap(), postgres.create_database().await.unwrap());
    assert_ne!(first, second);

    postgres.kill().await.unwrap();
    assert!(postgres.psql("SELECT 1").await.is_err());
    postgres.start_again().await.unwrap();
    assert_eq!(postgres.psql("SELECT n FROM kept").await.unwrap(), "7");

    postgres.stop().await.unwrap();
    assert!(postgres.psql("SELECT 1").await.is_err());
    postgres.start_again().await.unwrap();
    let folder = postgres.psql("SHOW data_directory").await.unwrap();
    assert!(std::path::Path::new(&folder).exists());
    drop(postgres);
    assert!(!std::path::Path::new(&folder).exists());
}
