import { BlockList } from 'node:net';
import { z } from 'zod';
import { addNetwork, DAYS, parseHours } from '../access/rules.ts';
import { duration, secretReference } from './values.ts';

/** The part of the configuration that says who may do what. */

/** A check by a function that throws, its message as the fault. */
function checkedBy(
  check: (text: string) => unknown,
): (text: string, context: z.core.$RefinementCtx<string>) => void {
  return (text, context) => {
    try {
      check(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: (error as Error).message });
    }
  };
}

const names = z.array(z.string().min(1)).min(1).max(1000);

export const userSchema = z.strictObject({
  password: z
    .string()
    .regex(/^\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+$/, {
      error: 'write the hash that `sallyport users add NAME` prints, not the password',
    })
    .describe("Hash of the user's password, as `sallyport users add NAME` prints it."),
  roles: z.array(z.string().min(1)).default([]).describe('What rules call this user.'),
});

export const ruleSchema = z.strictObject({
  name: z.string().min(1).max(100).describe('What refusals, records and `access explain` call it.'),
  users: names.optional().describe('For these principals. With `roles`: for either. Neither: for everybody.'),
  roles: names.optional().describe('For principals with one of these roles.'),
  resources: names
    .optional()
    .describe('Names of resources, with `*` for any run of characters. Default: all.'),
  labels: z
    .record(z.string(), z.union([z.string(), z.array(z.string()).min(1)]))
    .optional()
    .describe('Labels that a resource must have, each with its value or one of several.'),
  databases: names
    .optional()
    .describe('The only databases that may be opened. Default: those of the resource.'),
  days: z.array(z.enum(DAYS)).min(1).optional().describe('Days of the week.'),
  hours: z
    .array(z.string().superRefine(checkedBy(parseHours)))
    .min(1)
    .optional()
    .describe('Hours, `08:00-18:00`. A range that ends before it begins goes over midnight.'),
  time_zone: z
    .string()
    .superRefine(
      checkedBy((zone) => {
        try {
          return new Intl.DateTimeFormat('en', { timeZone: zone });
        } catch {
          throw new Error('is no time zone; write an IANA name such as Europe/Berlin');
        }
      }),
    )
    .optional()
    .describe('Zone of days and hours. Default: UTC.'),
  networks: z
    .array(z.string().superRefine(checkedBy((network) => addNetwork(new BlockList(), network))))
    .min(1)
    .optional()
    .describe('Networks that people come from, `10.0.0.0/8`, or single addresses.'),
  max_launch: duration.optional().describe('The longest launch. Default: 30 days.'),
  max_connections: z
    .int()
    .positive()
    .optional()
    .describe('Connections of one launch at once. Default: any number.'),
  read_only: z.boolean().default(false).describe('Let sessions only read.'),
});

export const oidcSchema = z
  .strictObject({
    issuer: z
      .url({ protocol: /^https?$/ })
      .describe('The provider; its `/.well-known/openid-configuration` is read.'),
    client_id: z.string().min(1).describe('As registered with the provider.'),
    client_secret: secretReference
      .optional()
      .describe('Reference to the client secret; none for public clients.'),
    scopes: z
      .array(z.string())
      .default(['openid', 'email', 'profile'])
      .describe('What is asked of the provider.'),
    name_claim: z.string().default('email').describe('Claim that names the principal.'),
    groups_claim: z.string().default('groups').describe('Claim that lists groups.'),
    roles: z
      .record(z.string(), z.array(z.string()))
      .default({})
      .describe('Roles by group: groups that are not listed give none.'),
    ca: z.string().optional().describe('File with the authorities to trust for the provider (PEM).'),
  })
  .describe('Sign-in with an OpenID provider. Default: none.');

const people = z.strictObject({
  users: z.array(z.string()).default([]).describe('By name.'),
  roles: z.array(z.string()).default([]).describe('By role.'),
});

export const apiSchema = z
  .strictObject({
    admins: people.prefault({}).describe("Who may see and end everybody's sessions and launches."),
    reviewers: people.prefault({}).describe("Who may see everybody's sessions and recordings."),
    login_ttl: duration.prefault('12h').describe('How long a login lasts.'),
  })
  .describe('The HTTP API.');

export const certificateSchema = z
  .strictObject({
    principal: z
      .enum(['common_name', 'email', 'dns', 'uri'])
      .default('common_name')
      .describe(
        'What of the certificate names the principal: its common name, or the first such alternative name.',
      ),
    roles: z.array(z.string()).default([]).describe('Roles of all who come with a certificate.'),
  })
  .describe('How a client certificate names its principal (mtls).');
