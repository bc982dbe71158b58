use bstar_stages::grade::*;
use serde_json::Value;
use std::collections::BTreeMap;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let (mut ok, mut n, mut fa, mut und, mut undok) = (0, 0, 0, 0, 0);
    let mut cats: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let mut slow = std::time::Duration::ZERO;
    for line in text.lines() {
        let v: Value = serde_json::from_str(line).unwrap();
        let s = |k: &str| v[k].as_str().unwrap_or("").to_owned();
        let exp = v["expected"].as_bool().unwrap();
        let disp = v["disputed"].as_bool().unwrap_or(false);
        let t = std::time::Instant::now();
        let got = math(&s("gold"), &s("pred"), &Conventions::default());
        slow = slow.max(t.elapsed());
        n += 1;
        let c = cats.entry(s("category")).or_default();
        c.1 += 1;
        if !disp {
            und += 1;
        }
        if got.correct == exp {
            ok += 1;
            c.0 += 1;
            if !disp {
                undok += 1;
            }
        } else {
            if !disp && got.correct {
                fa += 1;
            }
            let p = s("pred");
            let p: String = p.chars().rev().take(150).collect::<Vec<_>>().into_iter().rev().collect();
            println!(
                "{}{} [{}] {:?} ||| {:?}  -- {}",
                if exp { "T" } else { "F" },
                if disp { "D" } else { " " },
                s("category"),
                s("gold").chars().take(150).collect::<String>(),
                p,
                got.reason
            );
        }
    }
    for (c, (o, t)) in cats {
        if o < t {
            println!("{c}: {o}/{t}");
        }
    }
    println!(
        "{ok}/{n} = {:.4}; undisputed {undok}/{und}; false accepts undisputed {fa}; slowest {slow:?}",
        ok as f64 / n as f64
    );
}
