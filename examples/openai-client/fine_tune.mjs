// Fine-tunes a model on chat examples and measures it: a script as one writes it for OpenAI.
//
//     node fine_tune.mjs train.jsonl test.jsonl [EPOCHS BATCH_SIZE LEARNING_RATE_MULTIPLIER]
//
// It names no server: the client reads OPENAI_BASE_URL and OPENAI_API_KEY.

import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { toFile } from "openai";

const MODEL = "gpt-4o-mini-2024-07-18";
const POLL_MILLISECONDS = 2000;
const OVER = ["succeeded", "failed", "cancelled"];
const ITEM = {
  type: "object",
  properties: { messages: { type: "array" }, answer: { type: "string" } },
  required: ["messages", "answer"],
};
const EXACT = {
  type: "string_check",
  name: "exact",
  operation: "eq",
  input: "{{ sample.output_text }}",
  reference: "{{ item.answer }}",
};

const client = new OpenAI();

async function fineTune(train, hyperparameters) {
  const file = await client.files.create({ file: fs.createReadStream(train), purpose: "fine-tune" });
  await client.files.waitForProcessing(file.id);
  let job = await client.fineTuning.jobs.create({
    model: MODEL,
    training_file: file.id,
    suffix: "demo",
    seed: 1,
    metadata: { from: "fine_tune.mjs" },
    method: { type: "supervised", supervised: { hyperparameters } },
  });
  const seen = new Set();
  for (;;) {
    job = await client.fineTuning.jobs.retrieve(job.id);
    const events = await client.fineTuning.jobs.listEvents(job.id, { limit: 100 });
    for (const event of events.data.toReversed()) {
      if (!seen.has(event.id)) console.log(event.message);
      seen.add(event.id);
    }
    if (OVER.includes(job.status)) break;
    await sleep(POLL_MILLISECONDS);
  }
  if (job.fine_tuned_model === null) throw new Error(`the job has ${job.status}: ${job.error?.message}`);
  console.log(`job ${job.id} has ${job.status} after ${job.trained_tokens} tokens: ${job.fine_tuned_model}`);

  for await (const checkpoint of client.fineTuning.jobs.checkpoints.list(job.id)) {
    const { fine_tuned_model_checkpoint: name, step_number: step, metrics } = checkpoint;
    console.log(`checkpoint ${name} at step ${step}, loss ${metrics.train_loss}`);
  }
  for (const result of job.result_files) {
    const text = await (await client.files.content(result)).text();
    const [header, ...rows] = text.trim().split("\n").map((line) => line.split(","));
    const loss = header.indexOf("train_loss");
    console.log(`results of ${rows.length} steps: training loss from ${rows[0][loss]} to ${rows.at(-1)[loss]}`);
  }
  return job.fine_tuned_model;
}

// Once as a whole, and once as it comes.
async function chat(model, { messages, answer: wanted }) {
  const request = { model, messages, temperature: 0, max_tokens: 100 };
  const answer = await client.chat.completions.create(request);
  let streamed = "";
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    streamed += chunk.choices[0]?.delta.content ?? "";
  }
  console.log(`question ${messages.at(-1).content}`);
  console.log(`answer ${answer.choices[0].message.content}`);
  console.log(`streamed ${streamed}`);
  console.log(`wanted ${wanted}`);
}

async function compare(models, tests) {
  const items = tests.map((item) => JSON.stringify({ item }) + "\n").join("");
  const file = await client.files.create({ file: await toFile(Buffer.from(items), "tests.jsonl"), purpose: "evals" });
  const evaluation = await client.evals.create({
    name: "exact answers",
    data_source_config: { type: "custom", item_schema: ITEM, include_sample_schema: true },
    testing_criteria: [EXACT],
  });
  for (const model of models) {
    let run = await client.evals.runs.create(evaluation.id, {
      name: model,
      data_source: {
        type: "completions",
        model,
        source: { type: "file_id", id: file.id },
        input_messages: { type: "item_reference", item_reference: "item.messages" },
        sampling_params: { temperature: 0, max_completion_tokens: 100 },
      },
    });
    while (!["completed", "failed", "canceled"].includes(run.status)) {
      await sleep(POLL_MILLISECONDS);
      run = await client.evals.runs.retrieve(run.id, { eval_id: evaluation.id });
    }
    const { passed, total, errored } = run.result_counts;
    console.log(`eval ${model}: ${run.status}, ${passed} of ${total} right, ${errored} errors`);
    const query = { eval_id: evaluation.id, status: "fail", limit: 3 };
    for (const item of (await client.evals.runs.outputItems.list(run.id, query)).data) {
      const [said, wanted] = [item.sample.output[0].content, item.datasource_item.answer];
      console.log(`  wrong: ${JSON.stringify(said)} instead of ${JSON.stringify(wanted)}`);
    }
  }
}

// A chat example as a question and the answer that is wanted.
function split({ messages }) {
  return { messages: messages.slice(0, -1), answer: messages.at(-1).content };
}

const [train, test, epochs, batchSize, multiplier] = process.argv.slice(2);
const tests = fs.readFileSync(test, "utf8").trim().split("\n").map((line) => split(JSON.parse(line)));
const tuned = await fineTune(train, {
  n_epochs: epochs ? Number(epochs) : "auto",
  batch_size: batchSize ? Number(batchSize) : "auto",
  learning_rate_multiplier: multiplier ? Number(multiplier) : "auto",
});
await chat(tuned, tests[0]);
await compare([MODEL, tuned], tests);
