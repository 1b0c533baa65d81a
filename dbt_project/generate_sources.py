"""Writes the raw CRM data of the demo: as messy as a real CRM, and the same bytes for the same seed.

    python dbt_project/generate_sources.py [--seed 7] [--out dbt_project/sources]

What is deliberately wrong, and how often, is listed in dbt_project/README.md; the ids are constants below.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
COMMITTED = PROJECT / "sources"

Row = dict[str, str]
Tables = dict[str, list[Row]]

COLUMNS = {
    "raw_accounts": (
        "id", "name", "website", "industry", "employees", "annual_revenue", "city", "country", "phone",
        "description", "customer_since", "last_seen_at", "is_active", "parent_id", "owner_email",
    ),
    "raw_workspaces": ("id", "account_id", "name", "plan", "seats", "mrr", "region", "trial_ends_at"),
    "raw_users": (
        "id", "account_id", "workspace_id", "first_name", "last_name", "email", "phone", "job_title",
        "notes", "birthdate",
    ),
    "raw_workspace_permissions": ("workspace_id", "user_id", "role", "joined_on"),
}  # fmt: skip

ACCOUNTS, WORKSPACES, USERS, PERMISSIONS = 400, 1500, 7996, 10_000

NAMELESS = ("ACC-0138", "ACC-0219", "ACC-0305")
# Its key sorts before its refused parent's: an order by key alone would send it first.
CHILD_OF_NAMELESS = ("ACC-0066", "ACC-0138")
EXACT_DUPLICATE = "ACC-0117"
CASE_DUPLICATE = "ACC-0042"
OWNER_LEFT = ("ACC-0023", "ACC-0178", "ACC-0261")
SPECIAL_ACCOUNTS = (*NAMELESS, CHILD_OF_NAMELESS[0], EXACT_DUPLICATE, CASE_DUPLICATE, *OWNER_LEFT)

# account -> (workspaces, users in one of them, users without a workspace)
CHILDREN = {
    "ACC-0138": (7, 15, 5),
    "ACC-0219": (5, 9, 3),
    "ACC-0305": (3, 6, 2),
    "ACC-0066": (3, 4, 2),
    "ACC-0117": (2, 4, 1),
    "ACC-0042": (2, 3, 1),
    "ACC-0023": (2, 3, 1),
    "ACC-0178": (2, 3, 1),
    "ACC-0261": (2, 3, 1),
}
MISSING_ACCOUNTS = ("ACC-0901", "ACC-0902", "ACC-0903")
USERS_OF_MISSING_ACCOUNTS = 6
LEGACY_WORKSPACES, USERS_PER_LEGACY_WORKSPACE = 2, 3
USERS_WITHOUT_ACCOUNT = 60
NO_LAST_NAME = 8
BAD_EMAILS = (
    "not-an-email", "jane.doe@", "@example.com", "two words@example.com", "a@b@example.com", "n/a",
    "call me instead", "mailto:", "kim.at.example.com", "name(at)example.com", "ivan@@example.com",
    "+1 555 0100",
)  # fmt: skip

OWNERS = (
    "ana.kovac@example.com", "bruno.silva@example.com", "chidi.okafor@example.com", "dana.levi@example.com",
    "emre.yilmaz@example.com",
)  # fmt: skip
LEFT_COMPANY = "left.company@example.com"

FIRST_NAMES = (
    "Ana", "Bruno", "Chidi", "Dana", "Emre", "François", "Zoë", "Jürgen", "Łukasz", "Siân", "Þóra", "Øyvind",
    "İpek", "Nuñez", "Renée", "Ngọc", "Çağla", "Mary-Jane", "D'Arcy", "Noor", "Kwame", "Priya", "Tom", "Lucy",
    "محمد", "فاطمة", "伟", "秀英", "さくら", "健太", "Ελένη", "Γιώργος", "Наталья", "Иван", "अनीता", "राज",
    "Grace", "Oscar", "Ines", "Hugo", "Mina", "Pavel", "Aoife", "Seán", "José", "Maria Eduarda",
)  # fmt: skip
LAST_NAMES = (
    "O'Brien", "D'Angelo", "Müller", "García Márquez", "Łuczak", "Þórsdóttir", "van der Berg", "Nguyễn",
    "Smith-Jones", "Null", "Søndergård", "Çelik", "Jr., Harry", "Okafor", "Kovač", "Levi", "Yılmaz", "Silva",
    "العلي", "الخطيب", "王", "欧阳", "佐藤", "高橋", "Παπαδόπουλος", "Νικολάου", "Иванова", "Смирнов", "शर्मा",
    "गुप्ता", "Brown", "Martin", "Rossi", "Novák", "Silva e Souza", "MacDonald", "Ó Súilleabháin", "Kim", "Li",
    "True",
)  # fmt: skip
COMPANY_WORDS = (
    "Acme", "Blue Fjord", "Café Zürich", "Nordic", "Ōsaka", "Pão & Cia", "Smörgås", "Quantum", "Red Cedar",
    "Señal", "Tōkyō", "Université", "Vega", "Włókno", "O'Neill", "Ångström", "Delta", "Evergreen", "Harbor",
    "القمر", "北京云", "さくら", "Αθηνά", "Москва", "भारत", "Green 🌱", "Rocket 🚀", "Piñata", "Lumière",
    "Zephyr",
)  # fmt: skip
COMPANY_KINDS = (
    "Logistics", "Foods", "Health", "Robotics", "Textiles", "Energy", "Media", "Analytics", "Banking",
    "\"Best\" Tools", "Sons & Daughters", "Design <studio>", "Water", "Schools",
)  # fmt: skip
COMPANY_ENDINGS = ("GmbH", "S.A.", "Ltd.", ", Inc.", "株式会社", "ООО", "& Co. KG", "SARL", "A/S", "", "")
PLACES = (
    ("Zürich", "Switzerland"), ("São Paulo", "Brazil"), ("Lagos", "Nigeria"), ("תל אביב", "Israel"),
    ("İstanbul", "Türkiye"), ("東京", "Japan"), ("北京", "China"), ("القاهرة", "Egypt"), ("Αθήνα", "Greece"),
    ("Санкт-Петербург", "Russia"), ("मुंबई", "India"), ("Kraków", "Poland"), ("Besançon", "France"),
    ("Llanfairpwllgwyngyll", "United Kingdom"), ("St. John's", "Canada"),
    ("Washington, D.C.", "United States"),
    ("Abidjan", "Côte d'Ivoire"), ("Reykjavík", "Iceland"), ("Hà Nội", "Việt Nam"),
    ("A Coruña", "Spain"),
)  # fmt: skip
INDUSTRIES = (
    "Agriculture", "Banking", "Education", "Energy", "Healthcare", "Manufacturing", "Media", "Retail",
    "Technology", "Food & Beverage",
)  # fmt: skip
JOB_TITLES = (
    "CEO", "VP, Sales", "Head of \"Growth\"", "Ingénieur logiciel", "経理部長", "مدير المشتريات",
    "Разработчик", "Υπεύθυνη πωλήσεων", "Data Engineer", "Buyer", "Chief 🦄 Officer", "Geschäftsführer",
    "Student", "=Owner",
    "सलाहकार", "Developer", "Designer", "Accountant",
)  # fmt: skip
WORKSPACE_WORDS = (
    "Production", "Staging", "Équipe Données", "Ops 🚒", "R&D", "营销", "開発", "التسويق", "Отдел продаж",
    "Ανάλυση", "विपणन", "Finance \"EU\"", "Sales, EMEA", "O'Brien's team", "Sandbox", "Data\tlab", "Support",
)  # fmt: skip
PHONE_SHAPES = (
    "+41 44 {:03d} {:02d} {:02d}", "(555) {:03d}-{:02d}{:02d}", "+55 11 9{:03d}-{:02d}{:02d}",
    "0{:03d}{:02d}{:02d}", "+44 20 7{:03d} {:02d}{:02d} ext. 12", "+81-3-{:03d}-{:02d}{:02d}",
)  # fmt: skip
NOTES = (
    "Met at the fair in Besançon; wants a demo.",
    "First line\nsecond line",
    "Windows line\r\nends here\r\n\r\nand after a blank line",
    'Said "call me, please" and hung up',
    "Column one\tcolumn two\ttabbed",
    "ends with blanks   ",
    "C'est l'été, déjà vu à Noël",
    "יש להתקשר ביום ראשון / يرجى الاتصال يوم الأحد",
    "请在周一联系。価格表を送る。",
    "Να καλέσω την Τρίτη. Позвонить в среду. मंगलवार को फ़ोन करें।",
    "👩‍👩‍👧 family plan 🎉, 50% off ✅",
    "a,b;c|d 'single' \"double\" \\backslash\\ {curly} <tag> &amp;",
    "=SUM(A1:A9)",
    '"',
    "Price: 1.234,56 € -> 1,234.56",
    "null",
)
LONG_SENTENCES = (
    "Renewal was discussed with the whole buying committee. ",
    "Le client demande l'export « complet », y compris l'historique.\n",
    'He said "send it in writing, with all the numbers", twice.\r\n',
    "次回の会議は四月です。",
    "Договор подписан, оплата ожидается. ",
    "- item one,\titem two 😀\n",
)
ZONES = tuple(timezone(timedelta(minutes=m)) for m in (0, 60, -300, 330, 540, -210, 765))
PLANS = ("Free", "Team", "Business", "Enterprise")
SEAT_PRICE = {"Free": 0, "Team": 9, "Business": 19, "Enterprise": 41, "Legacy": 5}
ROLES = ("Owner", "Admin", "Member", "Viewer")
TODAY = date(2026, 6, 30)


def company_name(rng: random.Random) -> str:
    name = f"{rng.choice(COMPANY_WORDS)} {rng.choice(COMPANY_KINDS)} {rng.choice(COMPANY_ENDINGS)}".rstrip()
    return name.replace(" ,", ",")


def phone(rng: random.Random) -> str:
    return rng.choice(PHONE_SHAPES).format(rng.randrange(1000), rng.randrange(100), rng.randrange(100))


def sometimes(rng: random.Random, value: str, share_missing: float) -> str:
    if rng.random() < share_missing:
        # Blanks typed into a form are as missing as nothing at all.
        return "   " if rng.random() < 0.1 else ""
    return value


def day(rng: random.Random, first: date, last: date) -> str:
    return (first + timedelta(days=rng.randrange((last - first).days + 1))).isoformat()


def moment(rng: random.Random) -> str:
    at = datetime(2025, 1, 1, tzinfo=rng.choice(ZONES)) + timedelta(seconds=rng.randrange(545 * 86_400))
    if rng.random() < 0.3:
        at += timedelta(microseconds=rng.randrange(1_000_000))
    text = at.isoformat()
    return text.replace("+00:00", "Z") if rng.random() < 0.5 else text


def long_text(rng: random.Random) -> str:
    size = rng.randrange(2_000, 5_001)
    text = ""
    while len(text) < size:
        text += rng.choice(LONG_SENTENCES)
    return text


def email_for(number: int, rng: random.Random) -> str:
    local = rng.choice(("user{}", "o'brien.{}", "first.last+{}", "UPPER.{}", "a_b-{}")).format(number)
    return f"{local}@{rng.choice(('example.com', 'example.org', 'mail.example.net'))}"


def make_user(rng: random.Random, number: int, account_id: str, workspace_id: str) -> Row:
    return {
        "id": f"CON-{number:05d}",
        "account_id": account_id,
        "workspace_id": workspace_id,
        "first_name": sometimes(rng, rng.choice(FIRST_NAMES), 0.03),
        "last_name": rng.choice(LAST_NAMES) + ("  " if rng.random() < 0.01 else ""),
        "email": sometimes(rng, email_for(number, rng), 0.04),
        "phone": sometimes(rng, phone(rng), 0.4),
        "job_title": sometimes(rng, rng.choice(JOB_TITLES), 0.3),
        "notes": sometimes(rng, rng.choice(NOTES), 0.85),
        "birthdate": sometimes(rng, day(rng, date(1945, 1, 1), date(2006, 12, 31)), 0.5),
    }


def make_accounts(rng: random.Random) -> list[Row]:
    rows: list[Row] = []
    for number in range(1, ACCOUNTS + 1):
        city, country = rng.choice(PLACES)
        rows.append(
            {
                "id": f"ACC-{number:04d}",
                "name": company_name(rng) + ("  " if number % 37 == 0 else ""),
                "website": sometimes(rng, f"https://www.company-{number}.example/über-uns?q=1,2", 0.15),
                "industry": sometimes(rng, rng.choice(INDUSTRIES), 0.1),
                "employees": sometimes(rng, str(int(10 ** rng.uniform(0, 5))), 0.1),
                "annual_revenue": sometimes(rng, f"{rng.randrange(10**6, 10**11) / 100:.2f}", 0.15),
                "city": sometimes(rng, city, 0.08),
                "country": sometimes(rng, country, 0.05),
                "phone": sometimes(rng, phone(rng), 0.2),
                "description": sometimes(rng, NOTES[number % len(NOTES)], 0.3),
                "customer_since": sometimes(rng, day(rng, date(1998, 1, 1), TODAY), 0.1),
                "last_seen_at": sometimes(rng, moment(rng), 0.1),
                "is_active": rng.choice(("true", "true", "true", "false")),
                "parent_id": "",
                "owner_email": sometimes(rng, rng.choice(OWNERS), 0.06),
            }
        )
    by_id = {row["id"]: row for row in rows}
    ordinary = [row["id"] for row in rows if row["id"] not in SPECIAL_ACCOUNTS]
    for account_id in rng.sample(ordinary, 20):
        by_id[account_id]["description"] = long_text(rng)
    # More digits than a double holds: a float anywhere on the way shows.
    by_id[ordinary[10]]["annual_revenue"] = "1234567890123456.78"
    by_id[ordinary[11]]["customer_since"] = "2024-02-29"

    members = rng.sample(ordinary, 72)
    roots, middle, leaves = members[:12], members[12:32], members[32:]
    for account_id in middle:
        by_id[account_id]["parent_id"] = rng.choice(roots)
    for position, account_id in enumerate(leaves):
        by_id[account_id]["parent_id"] = rng.choice(middle if position < 30 else roots)

    for account_id in NAMELESS:
        by_id[account_id]["name"] = ""
    child, parent = CHILD_OF_NAMELESS
    by_id[child]["parent_id"] = parent
    for account_id in SPECIAL_ACCOUNTS:
        by_id[account_id]["owner_email"] = LEFT_COMPANY if account_id in OWNER_LEFT else OWNERS[0]

    extra = [
        by_id[EXACT_DUPLICATE] | {"name": "Exported twice", "phone": ""},
        by_id[CASE_DUPLICATE] | {"id": f"{CASE_DUPLICATE.lower()} ", "name": "Typed by hand"},
        by_id[ordinary[20]] | {"id": "", "name": "Nobody gave this one a key", "parent_id": ""},
        by_id[ordinary[21]] | {"id": "  ", "name": "Nor this one", "parent_id": ""},
    ]
    for row in extra:
        rows.insert(rng.randrange(len(rows) + 1), row)
    return rows


def make_workspaces(rng: random.Random, ordinary: list[str]) -> list[Row]:
    owners = [account_id for account_id, (count, _, _) in CHILDREN.items() for _ in range(count)]
    # A few big customers, many small ones.
    weights = [rng.paretovariate(1.2) for _ in ordinary]
    owners += rng.choices(ordinary, weights, k=WORKSPACES - len(owners))
    rng.shuffle(owners)
    special = set(CHILDREN)
    legacy = set(rng.sample([i for i, owner in enumerate(owners) if owner not in special], LEGACY_WORKSPACES))
    rows: list[Row] = []
    for position, owner in enumerate(owners):
        plan = "Legacy" if position in legacy else rng.choices(PLANS, (5, 4, 3, 1))[0]
        seats = rng.randrange(1, 400)
        mrr = seats * SEAT_PRICE[plan] * rng.choice((1, 1, 0.9, 0.875))
        trial = "" if plan != "Free" else moment(rng)
        rows.append(
            {
                "id": f"WS-{position + 1:05d}",
                "account_id": owner,
                "name": f"{rng.choice(WORKSPACE_WORDS)} {position + 1}",
                "plan": plan,
                "seats": sometimes(rng, str(seats), 0.05),
                "mrr": sometimes(rng, f"{mrr:.2f}", 0.04),
                "region": sometimes(rng, rng.choice(("eu-west", "us-east", "ap-south")), 0.05),
                "trial_ends_at": trial,
            }
        )
    return rows


def make_users(rng: random.Random, workspaces: list[Row]) -> list[Row]:
    by_account: dict[str, list[str]] = {}
    for row in workspaces:
        by_account.setdefault(row["account_id"], []).append(row["id"])
    legacy = [row for row in workspaces if row["plan"] == "Legacy"]
    homes: list[tuple[str, str]] = []
    for account_id, (_, inside, outside) in CHILDREN.items():
        homes += [(account_id, rng.choice(by_account[account_id])) for _ in range(inside)]
        homes += [(account_id, "")] * outside
    homes += [(MISSING_ACCOUNTS[i % len(MISSING_ACCOUNTS)], "") for i in range(USERS_OF_MISSING_ACCOUNTS)]
    homes += [(row["account_id"], row["id"]) for row in legacy for _ in range(USERS_PER_LEGACY_WORKSPACE)]
    homes += [("", "")] * USERS_WITHOUT_ACCOUNT
    not_ordinary = set(homes)
    ordinary_workspaces = [row for row in workspaces if row["account_id"] not in CHILDREN and row["plan"] != "Legacy"]
    for _ in range(USERS - len(homes)):
        row = rng.choice(ordinary_workspaces)
        homes.append((row["account_id"], row["id"] if rng.random() < 0.85 else ""))
    rng.shuffle(homes)
    rows = [make_user(rng, number, *home) for number, home in enumerate(homes, start=1)]

    ordinary = [
        row for row in rows if row["workspace_id"] and (row["account_id"], row["workspace_id"]) not in not_ordinary
    ]
    chosen = rng.sample(ordinary, len(BAD_EMAILS) + NO_LAST_NAME + 2 + 2 + 12)
    for bad in BAD_EMAILS:
        chosen.pop()["email"] = bad
    for position in range(NO_LAST_NAME):
        chosen.pop()["last_name"] = " " if position == 0 else ""
    twin, case_twin = chosen.pop(), chosen.pop()
    keyless = [chosen.pop() | {"id": "", "email": ""} for _ in range(2)]
    for row in chosen:
        row["notes"] = long_text(rng)
    extra = [dict(twin), case_twin | {"id": f"{case_twin['id'].lower()} "}, *keyless]
    for row in extra:
        rows.insert(rng.randrange(len(rows) + 1), row)
    return rows


def make_permissions(rng: random.Random, workspaces: list[Row], users: list[Row]) -> list[Row]:
    times = Counter(row["id"].strip().upper() for row in users)
    pairs = {
        (row["workspace_id"], row["id"]): None for row in users if row["workspace_id"] and row["id"].startswith("CON-")
    }
    clean_workspaces = [row for row in workspaces if row["account_id"] not in CHILDREN and row["plan"] != "Legacy"]
    by_account: dict[str, list[str]] = {}
    for row in clean_workspaces:
        by_account.setdefault(row["account_id"], []).append(row["id"])
    # Rows with trouble keep their one permission: how many permissions wait must not depend on chance.
    guests = [
        row
        for row in users
        if row["workspace_id"] in by_account.get(row["account_id"], ())
        and row["last_name"].strip()
        and row["email"] not in BAD_EMAILS
        and row["id"].strip()
        and times[row["id"].strip().upper()] == 1
    ]
    while len(pairs) < PERMISSIONS - 3:
        user = rng.choice(guests)
        own = by_account[user["account_id"]]
        workspace = rng.choice(own) if rng.random() < 0.8 else rng.choice(clean_workspaces)["id"]
        pairs.setdefault((workspace, user["id"]))
    ordered = list(pairs)
    rng.shuffle(ordered)
    owned: set[str] = set()
    rows: list[Row] = []
    for workspace_id, user_id in ordered:
        role = "Owner" if workspace_id not in owned else rng.choices(ROLES[1:], (1, 4, 2))[0]
        owned.add(workspace_id)
        joined = sometimes(rng, day(rng, date(2019, 1, 1), TODAY), 0.05)
        rows.append({"workspace_id": workspace_id, "user_id": user_id, "role": role, "joined_on": joined})
    guest_ids = {row["id"] for row in guests}
    repeated = next(row for row in rows if row["user_id"] in guest_ids and row["role"] == "Member")
    extra = [repeated | {"role": "Viewer"}]
    for home in clean_workspaces[:2]:
        extra.append({"workspace_id": home["id"], "user_id": "", "role": "Member", "joined_on": ""})
    for added in extra:
        rows.insert(rng.randrange(len(rows) + 1), added)
    return rows


def generate(seed: int = 7) -> Tables:
    rng = random.Random(seed)
    accounts = make_accounts(rng)
    numbered = (f"ACC-{number:04d}" for number in range(1, ACCOUNTS + 1))
    ordinary = [account_id for account_id in numbered if account_id not in SPECIAL_ACCOUNTS]
    workspaces = make_workspaces(rng, ordinary)
    users = make_users(rng, workspaces)
    return {
        "raw_accounts": accounts,
        "raw_workspaces": workspaces,
        "raw_users": users,
        "raw_workspace_permissions": make_permissions(rng, workspaces, users),
    }


def write_tables(tables: Tables, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for table, columns in COLUMNS.items():
        # newline="" keeps the \r\n inside a value what it was; the bytes must not depend on the platform.
        with (folder / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(tables[table])


def read_tables(folder: Path) -> Tables:
    tables: Tables = {}
    for table in COLUMNS:
        with (folder / f"{table}.csv").open(encoding="utf-8", newline="") as file:
            tables[table] = list(csv.DictReader(file))
    return tables


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the raw CRM data of the demo.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=COMMITTED)
    arguments = parser.parse_args()
    tables = generate(arguments.seed)
    write_tables(tables, arguments.out)
    for table, rows in tables.items():
        print(f"{table}: {len(rows)} rows")


if __name__ == "__main__":
    main()
