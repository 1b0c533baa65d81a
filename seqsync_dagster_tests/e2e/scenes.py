"""What a person does and sees in the web UI. Each scene asserts what it shows; README's pictures are taken of them."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from .office import LOCATION, Office


def launch_from_the_launchpad(office: Office, page: Page) -> None:
    """The whole sequence, started with a click."""
    _launchpad(office, page, "crm")
    for option in ("full_resync", "only_keys", "limit", "approve_plan", "plan_id", "requeue"):
        expect(page.get_by_text(option, exact=False).first).to_be_attached()
    expect(page.get_by_text("Send every row, whatever the ledger says was acknowledged").first).to_be_attached()
    office.shoot(page, "launchpad")
    run_id = _launch(page)
    assert office.ended(run_id) == "SUCCESS"
    page.goto(f"{office.url}/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    page.get_by_role("button", name="View tags and config").click()
    expect(page.get_by_text("seqsync/outcome: partial").first).to_be_visible()


def a_wrong_option_is_refused_before_it_runs(office: Office, page: Page) -> None:
    """The launchpad says so while it is typed."""
    _launchpad(office, page, "crm")
    _type_config(page, "limt: 5")
    expect(page.get_by_text('Received unexpected config entry "limt"').first).to_be_visible()
    expect(page.get_by_role("button", name="Launch Run")).to_be_disabled()


def lineage_from_model_to_object(office: Office, page: Page) -> None:
    """The dbt models on the left, the org's object on the right."""
    page.goto(f"{office.url}/assets/salesforce/Contact?view=lineage&lineageScope=upstream&lineageDepth=4")
    for name in ("stg_accounts", "crm_accounts", "accounts", "crm_contacts", "contacts", "Contact"):
        expect(page.locator("foreignObject, svg").get_by_text(name, exact=True).first).to_be_attached()
    expect(page.get_by_text("External Asset").first).to_be_visible()
    office.shoot(page, "lineage")
    page.goto(f"{office.url}/assets/salesforce/Contact?view=events")
    expect(page.get_by_text("crm/contacts").first).to_be_visible()
    expect(page.locator("a[href$='/lightning/o/Contact/list']").first).to_be_visible()


def columns_lead_to_fields(office: Office, page: Page) -> None:
    """Where a field's value comes from."""
    page.goto(f"{office.url}/assets/crm/contacts?view=overview")
    expect(page.get_by_text("the key: contact_id").first).to_be_visible()
    expect(page.get_by_text("column last_name").first).to_be_visible()
    expect(page.locator("a[href*='crm/defs.yaml:']").first).to_be_visible()


def rejected_rows_with_their_reasons(office: Office, page: Page) -> None:
    """The rows that need somebody's eye, sensitive values masked."""
    page.goto(f"{office.url}/assets/crm/contacts?view=checks&checkDetail=rejected")
    # The table stands in a cell of another one.
    row = page.get_by_role("row", name=re.compile("CON-00798")).last
    expect(row.get_by_text("INVALID_EMAIL_ADDRESS")).to_be_visible()
    expect(row.get_by_text("Email: invalid email address: ***")).to_be_visible()
    office.shoot(page, "rejected")


def counts_are_plotted(office: Office, page: Page) -> None:
    """Over the runs."""
    page.goto(f"{office.url}/assets/crm/contacts?view=overview")
    page.get_by_role("button", name="Plots").click()
    created = page.get_by_text("seqsync/created", exact=True).first
    created.scroll_into_view_if_needed()
    expect(created).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()


def a_red_stop_says_why(office: Office, page: Page) -> None:
    """The org cannot be reached: the sync is red, those below wait, and both say so."""
    office.org.stop()
    try:
        _launchpad(office, page, "crm")
        _type_config(page, "full_resync: true")
        run_id = _launch(page)
        assert office.ended(run_id) == "FAILURE"
    finally:
        office.org.start()
    page.goto(f"{office.url}/runs/{run_id}?focusedTime=0")
    page.get_by_role("button", name="View tags and config").click()
    expect(page.get_by_text("seqsync/stopped: accounts").first).to_be_visible()
    page.goto(f"{office.url}/assets/crm/contacts?view=checks&checkDetail=complete")
    expect(page.get_by_text(re.compile("crm/contacts waits for accounts.*nothing listens there")).first).to_be_visible()
    page.goto(f"{office.url}/assets/crm/accounts?view=checks&checkDetail=complete")
    expect(page.get_by_text(re.compile("wait until a run of accounts ends in order")).first).to_be_visible()
    office.shoot(page, "stopped", height=620)


def a_plan_is_read_before_it_is_sent(office: Office, page: Page) -> None:
    """The job that sends nothing, and what it tells on the assets."""
    office.org.reset_calls()
    _launchpad(office, page, "crm_plan")
    _type_config(page, "full_resync: true")
    run_id = _launch(page)
    assert office.ended(run_id) == "SUCCESS"
    assert office.org.calls()["row_bearing"] == 0
    page.goto(f"{office.url}/assets/crm/accounts?view=events")
    expect(page.get_by_text("A plan, nothing of it was sent.").first).to_be_visible()
    expect(page.get_by_text("seqsync/planned_changes").first).to_be_attached()
    office.shoot(page, "plan")


def schedules_and_sensors_are_switched_on(office: Office, page: Page) -> None:
    """With a click each, and they stay so."""
    page.goto(f"{office.url}/automation")
    expect(page.get_by_text("crm_schedule").first).to_be_visible()
    # A click before the states have arrived is lost.
    page.wait_for_load_state("networkidle")
    ask = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }"""

    def running() -> set[str]:
        [found] = office.graphql(ask)["repositoriesOrError"]["nodes"]
        return {
            each["name"]
            for kind, state in (("schedules", "scheduleState"), ("sensors", "sensorState"))
            for each in found[kind]
            if each[state]["status"] == "RUNNING"
        }

    assert running() == set()
    for name in ("crm_models", "crm_schedule"):
        row = page.locator("[data-index]", has=page.locator(f"a[href$='/{name}']"))
        row.locator("label").last.click()
        expect(row.locator("input").last).to_be_checked()
    # The switch is quicker than what it switches.
    office.until(lambda: running() == {"crm_models", "crm_schedule"}, "both are switched on")


#: In this order: later ones show what earlier ones did.
SCENES = (
    launch_from_the_launchpad,
    a_wrong_option_is_refused_before_it_runs,
    lineage_from_model_to_object,
    columns_lead_to_fields,
    rejected_rows_with_their_reasons,
    a_red_stop_says_why,
    a_plan_is_read_before_it_is_sent,
    counts_are_plotted,
    schedules_and_sensors_are_switched_on,
)


def _launchpad(office: Office, page: Page, job: str) -> None:
    page.goto(f"{office.url}/locations/{LOCATION}/jobs/{job}/playground")
    expect(page.locator(".CodeMirror").first).to_be_visible()


def _type_config(page: Page, text: str) -> None:
    page.locator(".CodeMirror").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.type(text)


def _launch(page: Page) -> str:
    button = page.get_by_role("button", name="Launch Run")
    expect(button).to_be_enabled()
    button.click()
    page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))
    found = re.search(r"/runs/([0-9a-f-]{36})", page.url)
    assert found
    # The page of a run that is under way keeps the browser busy: more than half of its time went there.
    page.goto("about:blank")
    return found[1]
