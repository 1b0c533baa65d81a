// jsforce, as it comes from npm, against a running emulator: `node test.mjs URL`.
import assert from 'node:assert/strict';
import jsforce from 'jsforce';

const url = process.argv[2];
const reply = await fetch(`${url}/services/oauth2/token`, {
  method: 'POST',
  body: new URLSearchParams({
    grant_type: 'client_credentials', client_id: 'demo', client_secret: 'demo-secret',
  }),
});
const token = await reply.json();
const conn = new jsforce.Connection({
  instanceUrl: token.instance_url, accessToken: token.access_token, version: '64.0',
});

async function step(name, run) {
  await run();
  console.log(`ok  ${name}`);
}

await step('identity and describe', async () => {
  const account = await conn.sobject('Account').describe();
  assert.equal(account.keyPrefix, '001');
  assert.ok((await conn.describeGlobal()).sobjects.some((o) => o.name === 'Contact'));
});

await step('limits fall with every call', async () => {
  const before = (await conn.limits()).DailyApiRequests.Remaining;
  assert.equal((await conn.limits()).DailyApiRequests.Remaining, before - 1);
  assert.ok(conn.limitInfo.apiUsage.used > 0);
});

await step('create, retrieve, update, upsert, delete', async () => {
  const account = conn.sobject('Account');
  const created = await account.create({ Name: 'One', External_Id__c: 'J1' });
  assert.ok(created.success && created.id.startsWith('001'));
  assert.equal((await account.retrieve(created.id)).Name, 'One');
  assert.ok((await account.update({ Id: created.id, Phone: '1' })).success);
  const again = await account.upsert({ Name: 'Uno', External_Id__c: 'J1' }, 'External_Id__c');
  assert.ok(again.success && again.created === false && again.id === created.id);
  const fresh = await account.upsert({ Name: 'Two', External_Id__c: 'J2' }, 'External_Id__c');
  assert.equal(fresh.created, true);
  assert.ok((await account.destroy(created.id)).success);
  await assert.rejects(account.update({ Id: created.id, Phone: '2' }), { errorCode: 'ENTITY_IS_DELETED' });
  await assert.rejects(account.create({}), { errorCode: 'REQUIRED_FIELD_MISSING' });
});

await step('many records in one call', async () => {
  const account = conn.sobject('Account');
  const made = await account.create(
    Array.from({ length: 250 }, (_, i) => ({ Name: `many ${i}`, External_Id__c: `M${i}` })),
    { allowRecursive: true },
  );
  assert.equal(made.filter((r) => r.success).length, 250);
  const mixed = await account.update([{ Id: made[0].id, Name: 'x' }, { Id: made[1].id, Nope: 1 }]);
  assert.deepEqual(mixed.map((r) => r.success), [true, false]);
  assert.equal(mixed[1].errors[0].statusCode, 'INVALID_FIELD');
  const known = await account.upsert([{ External_Id__c: 'M5', Name: 'y' }], 'External_Id__c');
  assert.equal(known[0].created, false);
  const gone = await account.destroy(made.map((r) => r.id), { allowRecursive: true });
  assert.ok(gone.every((r) => r.success));
});

await step('Bulk 2.0 ingest', async () => {
  conn.bulk2.pollInterval = 200;
  const rows = Array.from({ length: 2500 }, (_, i) => ({ External_Id__c: `B${i}`, Name: `Näme, "${i}"\nline` }));
  const upserted = await conn.bulk2.loadAndWaitForResults({
    object: 'Account', operation: 'upsert', externalIdFieldName: 'External_Id__c',
    input: [...rows, { External_Id__c: 'B0', Name: 'again' }, { External_Id__c: 'bad', Name: '' }],
  });
  assert.equal(upserted.successfulResults.length, 2501);
  assert.equal(upserted.failedResults.length, 1);
  assert.match(upserted.failedResults[0].sf__Error, /^REQUIRED_FIELD_MISSING:.*:Name --$/);
  assert.equal(upserted.unprocessedRecords.length, 0);
  assert.ok(upserted.successfulResults.some((r) => r.Name === 'Näme, "7"\nline'));
  const job = conn.bulk2.createJob({ object: 'Account', operation: 'insert' });
  await job.open();
  await job.uploadData('Name,Nope\nx,y\n');
  await job.close();
  await assert.rejects(job.poll(), /InvalidBatch : Field name not found : Nope/);
});

await step('queries and their pages', async () => {
  const first = await conn.query("SELECT Id, Name FROM Account WHERE External_Id__c LIKE 'B%'");
  assert.deepEqual([first.totalSize, first.done, first.records.length], [2500, false, 2000]);
  const rest = await conn.queryMore(first.nextRecordsUrl);
  assert.deepEqual([rest.done, rest.records.length], [true, 500]);
  const all = await conn.query('SELECT Id FROM Account', { autoFetch: true, maxFetch: 10000 });
  assert.equal(all.records.length, all.totalSize);
  const some = conn.sobject('Account').find({ External_Id__c: { $in: ['B1', 'B2'] } }, 'Id, Name');
  const found = await some.sort('Name').limit(5);
  assert.equal(found.length, 2);
  assert.equal(await conn.sobject('Account').count({ External_Id__c: 'B1' }), 1);
  const deleted = await conn.query('SELECT Id FROM Account WHERE IsDeleted = true', { scanAll: true });
  assert.equal(deleted.totalSize, 251);
});

await step('Bulk 2.0 query and delete', async () => {
  const stream = await conn.bulk2.query("SELECT Id FROM Account WHERE External_Id__c LIKE 'B%'");
  const records = await stream.toArray();
  assert.equal(records.length, 2500);
  const removed = await conn.bulk2.loadAndWaitForResults({
    object: 'Account', operation: 'delete', input: records.map(({ Id }) => ({ Id })),
  });
  assert.equal(removed.successfulResults.length, 2500);
  assert.ok(removed.successfulResults.every((r) => r.sf__Created === 'false'));
});
