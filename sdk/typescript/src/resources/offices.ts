/** Offices: isolated workspaces with agents, tasks and files of their own. */
import { type CallOptions, type Core, type ListOptions } from "../core.js";
import { MiError } from "../errors.js";
import type * as plain from "../gen/types.js";
import {
  OfficeSchema,
  OfficeService,
  OfficeSettingsSchema,
  OfficeStatusReportSchema,
  type Office as OfficeMessage,
} from "../gen/mi/v1/office_service_pb.js";
import { changed, expect } from "../plain.js";
import { found, poll, type WaitOptions } from "../wait.js";

const api = OfficeService.method;

/** An isolated workspace. */
export interface Office extends plain.Office {
  /** The same as `createdAt`. */
  created_at: string;
}

function office(message: OfficeMessage | undefined): Office {
  const office = expect(OfficeSchema, message);
  return { ...office, created_at: office.createdAt };
}

/** `client.offices` */
export class Offices {
  /** @internal */
  constructor(private readonly core: Core) {}

  /** Creates an office. It becomes active by itself; usually it already is when the answer arrives. */
  async create(input: plain.CreateOfficeRequest, options?: CallOptions): Promise<Office> {
    return office((await this.core.call(api.createOffice, input, options)).office);
  }

  /** Lists your offices, oldest first; for the administrator, all there are. */
  async list(options?: ListOptions): Promise<Office[]> {
    return (await this.core.pages(api.listOffices, {}, (answer) => answer.offices, options)).map(office);
  }

  /** Returns one office. */
  async get(officeId: string, options?: CallOptions): Promise<Office> {
    return office((await this.core.call(api.getOffice, { officeId }, options)).office);
  }

  /** Returns an office at a glance: what it needs, how many agents, tasks and files it has, its credits. */
  async status(officeId: string, options?: CallOptions): Promise<plain.OfficeStatusReport> {
    const answer = await this.core.call(api.getOfficeStatus, { officeId }, options);
    return expect(OfficeStatusReportSchema, answer.status);
  }

  /** Returns an office's settings, defaults filled in. */
  async getSettings(officeId: string, options?: CallOptions): Promise<plain.OfficeSettings> {
    const answer = await this.core.call(api.getOfficeSettings, { officeId }, options);
    return expect(OfficeSettingsSchema, answer.settings);
  }

  /** Changes the settings that are given, leaves the others, and returns all. */
  async updateSettings(
    officeId: string,
    settings: Partial<plain.OfficeSettings>,
    options?: CallOptions,
  ): Promise<plain.OfficeSettings> {
    const input = { officeId, settings, updateMask: changed(OfficeSettingsSchema, settings) };
    const answer = await this.core.call(api.updateOfficeSettings, input, options);
    return expect(OfficeSettingsSchema, answer.settings);
  }

  /** Stops the compute of every agent and keeps all data. */
  async suspend(officeId: string, options?: CallOptions): Promise<Office> {
    return office((await this.core.call(api.suspendOffice, { officeId }, options)).office);
  }

  /** Brings the agents of a suspended office back with their workspaces. */
  async resume(officeId: string, options?: CallOptions): Promise<Office> {
    return office((await this.core.call(api.resumeOffice, { officeId }, options)).office);
  }

  /** Fires every agent, then removes everything the office owns, backups included. Completes by itself. */
  async delete(officeId: string, options?: CallOptions): Promise<void> {
    await this.core.call(api.deleteOffice, { officeId }, options);
  }

  /** Waits until an office is active. */
  async waitFor(officeId: string, options: WaitOptions = {}): Promise<Office> {
    return poll(`office ${officeId} to be active`, options, async (signal) => {
      const office = await this.get(officeId, { signal });
      if (office.status === "deleting") {
        throw new MiError({ code: "FAILED_PRECONDITION", message: `office ${officeId} is being deleted` });
      }
      return office.status === "active" ? office : undefined;
    });
  }

  /** Waits until a deleted office is gone with everything in it. */
  async waitForGone(officeId: string, options: WaitOptions = {}): Promise<void> {
    await poll(`office ${officeId} to be gone`, options, async (signal) => {
      return (await found(this.get(officeId, { signal }))) === undefined ? true : undefined;
    });
  }
}
