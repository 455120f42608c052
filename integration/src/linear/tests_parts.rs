//! What is seen of a batch, and what a replica that lags may show.

use super::check;
use super::tests::{ALL, append, by, created, delete, op, part, read, verdict};
use crate::history::{Call, Outcome};

#[test]
fn half_of_a_batch_does_not_pass() {
    let batch = op(
        3,
        4,
        Call::Append {
            messages: vec![1, 2],
            producer: None,
        },
        Outcome::Appended { end: 20 },
    );
    let whole = [created(), batch.clone(), read(5, 6, ALL, &[1, 2])];
    verdict(&whole).expect("the whole batch is there");
    verdict(&[created(), batch.clone(), read(3, 4, ALL, &[1])]).expect_err("half of it");
    verdict(&[created(), batch, part(5, 6, ALL, &[1])]).expect("a read may end inside of it");
}

#[test]
fn a_replica_that_lags_may_say_up_to_date_to_a_live_reader_only() {
    let mut live = read(7, 8, ALL, &[1]);
    live.call = Call::Read {
        from: ALL,
        exact: false,
    };
    let mut operations = vec![created(), append(3, 4, 1, 10), append(5, 6, 2, 20), live];
    verdict(&operations).expect("it showed what was there");
    operations.push(read(7, 8, ALL, &[1]));
    verdict(&operations).expect_err("a plain read is about now");
}

#[test]
fn a_retry_may_have_come_in_the_life_before_too() {
    // Of the first time only the position of the next message tells.
    let mut operations = vec![
        created(),
        by(Some(0), 3, 0, 1, Outcome::Unknown),
        append(5, 6, 2, 20),
        delete(7, 8),
        op(9, 10, Call::Create, Outcome::Created),
        append(11, 12, 3, 10),
        by(Some(0), 13, 14, 1, Outcome::Appended { end: 20 }),
        read(15, 16, ALL, &[3, 1]),
    ];
    check(&operations, &|_| 10).expect("one server could have answered so");
    // Who sent it once sent it to one life.
    operations.remove(6);
    check(&operations, &|_| 10).expect_err("it stands where it was not sent");
}

#[test]
fn one_request_stands_in_one_life() {
    let mut operations = vec![
        created(),
        by(Some(0), 3, 20, 1, Outcome::Appended { end: 20 }),
        read(4, 5, ALL, &[1]),
        delete(6, 7),
        op(8, 9, Call::Create, Outcome::Created),
        append(10, 11, 2, 10),
        read(21, 22, ALL, &[2, 1]),
    ];
    check(&operations, &|_| 10).expect_err("a node that lost the answer sent it again");
    // The client did, and the second life knows nothing of the first.
    operations[1].outcome = Outcome::Unknown;
    operations.push(by(Some(0), 13, 20, 1, Outcome::Appended { end: 20 }));
    check(&operations, &|_| 10).expect("one server could have answered so");
}
