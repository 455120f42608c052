// The official JavaScript client, unmodified: create, append, read, tail, resume.
import { DurableStream, stream } from "@durable-streams/client"

const base = process.argv[2]
const expect = (what, found, wanted) => {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`)
  }
}

const url = `${base}/v1/stream/js/chat`
const handle = await DurableStream.create({ url, contentType: "application/json" })
await handle.append(JSON.stringify({ n: 1 }))
await handle.append(JSON.stringify({ n: 2 }))
const first = await stream({ url, live: false })
expect("read", await first.json(), [{ n: 1 }, { n: 2 }])
const { offset } = await handle.head()
await handle.append(JSON.stringify({ n: 3 }))
const resumed = await stream({ url, offset, live: false })
expect("resume", await resumed.json(), [{ n: 3 }])

for (const live of ["sse", "long-poll"]) {
  const tail = await handle.head()
  const seen = []
  const response = await stream({ url, offset: tail.offset, live })
  const done = new Promise((resolve) => {
    response.subscribeJson(async (batch) => {
      seen.push(...batch.items)
      if (seen.length >= 2) resolve()
    })
  })
  await handle.append(JSON.stringify({ live, n: 4 }))
  await handle.append(JSON.stringify({ live, n: 5 }))
  await done
  response.cancel()
  expect(live, seen, [{ live, n: 4 }, { live, n: 5 }])
}
console.log("all good")
process.exit(0)
