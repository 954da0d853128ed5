import { useEffect, useRef } from "preact/hooks";
import { duration, size } from "../format";
import type { Lane } from "../lanes";
import { layout } from "../lanes";
import { texts } from "../texts";
import type { Lanes, ShardNames, State } from "../wire";

const word = (status: Lane["status"]): string =>
  ({
    waiting: texts.panel.shard_waiting,
    downloading: texts.phase.download,
    downloaded: texts.panel.shard_downloaded,
    reading: texts.phase.read,
    resident: texts.panel.shard_resident,
    read: texts.panel.shard_read,
    placing: texts.phase.place,
    placed: texts.panel.shard_placed,
  })[status];

/** One lane a shard: above when it was downloaded and read, below when it was placed. */
export function Shards(props: { state: State; names: ShardNames; lanes: Lanes }) {
  const { state, names } = props;
  const lanes = layout(names, props.lanes, state.elapsed);
  const list = useRef<HTMLOListElement>(null);
  const active = lanes.findIndex((lane) => ["downloading", "reading", "placing"].includes(lane.status));
  const downloads = lanes.some((lane) => lane.download !== null);
  useEffect(() => {
    const row = list.current?.children[active];
    if (list.current && row instanceof HTMLElement && list.current.scrollHeight > list.current.clientHeight) {
      list.current.scrollTop = row.offsetTop - list.current.offsetTop - list.current.clientHeight / 2;
    }
  }, [active]);
  return (
    <section class="nbl-shards">
      <h4>
        {texts.panel.shards}
        {names.shards > 0 && ` · ${names.shards}`}
        <span class="nbl-legend">
          {downloads && (
            <>
              <i class="nbl-key nbl-download" /> {texts.phase.download}
            </>
          )}
          <i class="nbl-key nbl-read" /> {texts.phase.read} <i class="nbl-key nbl-place" />{" "}
          {texts.phase.place}
        </span>
      </h4>
      {lanes.length === 0 ? (
        <p class="nbl-note nbl-empty">{texts.panel.shards_wait}</p>
      ) : (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a list that scrolls must be reachable by keyboard
        <ol ref={list} class="nbl-lanes" tabIndex={0}>
          {lanes.map((lane) => (
            <Row key={lane.name} lane={lane} />
          ))}
        </ol>
      )}
    </section>
  );
}

function told(lane: Lane): string {
  const parts = [`${lane.name}, ${size(lane.bytes)}`];
  const rate = lane.rate !== null ? `, ${size(lane.rate)}/s` : "";
  if (lane.downloadSeconds !== null) {
    parts.push(
      `${texts.phase.download}: ${duration(lane.downloadSeconds)}${lane.readSeconds === null ? rate : ""}`,
    );
  }
  if (lane.readSeconds !== null) {
    parts.push(`${texts.phase.read}: ${duration(lane.readSeconds)}${rate}`);
  }
  if (lane.placeSeconds !== null) {
    parts.push(`${texts.phase.place}: ${duration(lane.placeSeconds)}`);
  }
  return `${parts.join("\n")}\n${word(lane.status)}`;
}

function Row({ lane }: { lane: Lane }) {
  return (
    <li class="nbl-lane" title={told(lane)}>
      <span class="nbl-lane-name">{lane.name.replace(/\.(safetensors|bin)$/, "")}</span>
      <span class="nbl-lane-chart" aria-hidden="true">
        {lane.download && (
          <span
            class="nbl-lane-bar nbl-download"
            style={{ left: `${lane.download.left}%`, width: `${lane.download.width}%` }}
          />
        )}
        {lane.read && (
          <span
            class="nbl-lane-bar nbl-read"
            style={{ left: `${lane.read.left}%`, width: `${lane.read.width}%` }}
          />
        )}
        {lane.place && (
          <span
            class="nbl-lane-bar nbl-place"
            style={{ left: `${lane.place.left}%`, width: `${lane.place.width}%` }}
          />
        )}
      </span>
      <span class="nbl-lane-rate">{lane.rate !== null ? `${size(lane.rate)}/s` : ""}</span>
      <span class="nbl-lane-status">{word(lane.status)}</span>
    </li>
  );
}
